/* SPDX-License-Identifier: Apache-2.0
 *
 * What a template may call: filters, tests, methods and functions, each a row of a table; and what the files
 * of the evaluator call in one another. Private to the text room; the files jinja_*.c share it.
 */
#ifndef TEXT_JINJA_BUILTIN_H
#define TEXT_JINJA_BUILTIN_H

#include "text/jinja_ast.h"

typedef struct jinja_args {
    jinja_value *list;
    size_t n;
    strview *names; /* of the keywords */
    jinja_value *keywords;
    size_t n_keywords;
} jinja_args;

#define JINJA_MAX_BOUND 6

/* Arguments by parameter; NULL: not given. */
typedef struct jinja_bound {
    const jinja_value *v[JINJA_MAX_BOUND];
    const jinja_args *all;
} jinja_bound;

typedef struct jinja_builtin {
    const char *name;
    /* SELF: a filter's input, a method's value; none for a function */
    nib_status (*call)(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out);
    const char *parameters; /* names, one space between; NULL: it reads b->all itself */
    int n_required;
} jinja_builtin;

typedef struct jinja_function {
    const jinja_builtin *builtin;
    jinja_value self;
} jinja_function;

/* Variables of a for, a macro or a block; the template's own are in jinja_run. */
typedef struct jinja_scope {
    struct jinja_scope *parent; /* NULL: the template */
    int *ids;
    jinja_value *values;
    size_t n, capacity;
} jinja_scope;

typedef struct jinja_macro {
    const jinja_node *node; /* JINJA_N_MACRO, or JINJA_N_CALL_BLOCK for a caller */
    jinja_scope *scope;     /* where it was written */
} jinja_macro;

/* ---- jinja_eval.c, jinja_operators.c, jinja_exec.c, jinja_call.c ---- */

nib_status jinja_eval(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out);
nib_status jinja_math(jinja_run *r, strview op, jinja_value a, jinja_value b, jinja_value *out);
nib_status jinja_slice(jinja_run *r, jinja_value v, const jinja_value *bounds[3], jinja_value *out);
nib_status jinja_attribute(jinja_run *r, jinja_value v, strview name, jinja_value *out); /* v.name */
nib_status jinja_item(jinja_run *r, jinja_value v, jinja_value key, jinja_value *out);   /* v[key] */
/* Runs statements; what they print goes to OUT. */
nib_status jinja_exec(jinja_run *r, jinja_scope *s, const jinja_node *body, jinja_builder *out);
nib_status jinja_set(jinja_run *r, jinja_scope *s, int id, jinja_value v);
nib_status jinja_call(jinja_run *r, jinja_value callee, const jinja_args *args, jinja_value *out);
nib_status jinja_arguments(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_args *out);
nib_status jinja_run_builtin(jinja_run *r, const jinja_builtin *b, jinja_value self, const jinja_args *args,
                             jinja_value *out);

/* ---- tables ---- */

int jinja_filter_id(strview name); /* -1: there is none */
int jinja_test_id(strview name);
nib_status jinja_filter(jinja_run *r, int id, strview name, jinja_value in, const jinja_args *args,
                        jinja_value *out);
nib_status jinja_test(jinja_run *r, int id, strview name, jinja_value in, const jinja_args *args, bool *out);
extern const jinja_builtin jinja_text_filters[], jinja_list_filters[]; /* end with a NULL name */
extern const jinja_builtin jinja_functions[];
/* The method NAME of v as a value; false: it has none. */
nib_status jinja_method(jinja_run *r, jinja_value v, strview name, bool *found, jinja_value *out);
extern const jinja_builtin jinja_text_methods[];

/* ---- what the builtins share ---- */

/* A text argument, or a sentence that names WHAT. */
nib_status jinja_want_text(jinja_run *r, const jinja_value *v, const char *what, const jinja_text **out);
nib_status jinja_want_int(jinja_run *r, const jinja_value *v, const char *what, int64_t *out);
/* Python's "%" on texts, and str.format. */
nib_status jinja_percent_format(jinja_run *r, const jinja_text *format, jinja_value args, jinja_value *out);
nib_status jinja_brace_format(jinja_run *r, const jinja_text *format, const jinja_args *args,
                              jinja_value *out);
/* Upper or lower case of a text. */
typedef enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_CAPITALIZE, JINJA_TITLE, JINJA_SWAP } jinja_case;
nib_status jinja_change_case(jinja_run *r, const jinja_text *t, jinja_case to, jinja_value *out);
/* Every OLD (texts) becomes NEW, at most MOST times (-1: all). */
nib_status jinja_replace(jinja_run *r, const jinja_text *t, const jinja_text *old, const jinja_text *new_text,
                         int64_t most, jinja_value *out);
/* CHARS NULL: white space. */
nib_status jinja_strip(jinja_run *r, const jinja_text *t, const jinja_value *chars, bool left, bool right,
                       jinja_value *out);
nib_status jinja_join(jinja_run *r, const jinja_text *with, const jinja_list *items, bool texts_only,
                      jinja_value *out);
nib_status jinja_lines(jinja_run *r, const jinja_text *t, bool keep_ends, jinja_value *out);

#endif
