/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of a Jinja template while it renders, and the memory they live in. Everything is allocated from one
 * run's arena and dies with it.
 *
 * A text knows of each byte whether a user gave it: what is made of texts (slices, joins, JSON) keeps that.
 * Private to the text room; the files jinja_*.c share it.
 */
#ifndef TEXT_JINJA_VALUE_H
#define TEXT_JINJA_VALUE_H

#include <stdint.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/status.h"
#include "base/strview.h"

typedef enum jinja_kind {
    JINJA_UNDEFINED = 0,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_TEXT,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_GENERATOR, /* what map, select and their like give: read once, has no length */
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION, /* a global or a method bound to its value */
} jinja_kind;

typedef struct jinja_text {
    const char *p; /* UTF-8 */
    size_t n;
    const unsigned char *marks; /* [n], 1: a user's byte; NULL: all bytes are as `user` says */
    bool user;
    bool safe; /* jinja2's Markup, from the filter `safe`: what is added to it is escaped as HTML */
    struct jinja_buffer *buffer; /* that it was built in, with room behind it; NULL: none */
} jinja_text;

typedef struct jinja_value {
    jinja_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const jinja_text *text;
        struct jinja_list *list; /* LIST, TUPLE, GENERATOR */
        struct jinja_dict *dict; /* DICT, NAMESPACE */
        struct jinja_loop *loop;
        struct jinja_macro *macro;
        struct jinja_function *function;
        const struct jinja_missing *missing; /* UNDEFINED; NULL: an unnamed one */
    };
} jinja_value;

typedef struct jinja_list {
    jinja_value *items;
    size_t n, capacity;
} jinja_list;

typedef struct jinja_dict {
    jinja_value *keys, *values;
    size_t n, capacity;
} jinja_dict;

/* Why a value is undefined, for the sentence when it is used after all. */
typedef struct jinja_missing {
    const char *owner; /* Python's name of the type that lacks it, NULL: a variable */
    strview name;
    const char *words; /* instead of both, when not NULL */
} jinja_missing;

/* `loop` inside a for. */
typedef struct jinja_loop {
    const jinja_list *items;
    size_t index; /* from 0 */
    int64_t depth;
    jinja_value changed; /* what loop.changed() was last given */
} jinja_loop;

/* One rendering: its memory and its bounds. */
typedef struct jinja_run {
    arena memory;
    size_t bytes_left;
    uint64_t steps_left;
    int depth; /* of evaluation */
    nib_error *err;
    const struct jinja_template *code;
    jinja_value *globals; /* [names] what the caller gave; kind UNDEFINED with missing == NULL: nothing */
    jinja_value *tops;    /* [names] what the template set at its top */
    bool *has_top;
    int64_t now;                  /* seconds, for strftime_now */
    bool stopped_loop, next_turn; /* break and continue on their way out */
    int64_t loop_depth;
} jinja_run;

#define JINJA_MAX_DEPTH 2000 /* of nested lists and dicts */

/* A sentence about the template or what it was given; always fails. */
nib_status jinja_fail(jinja_run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Takes N steps; fails when the template has none left. */
nib_status jinja_step(jinja_run *r, uint64_t n);
/* Zeroed; fails when memory or the run's share of it ran out. */
nib_status jinja_alloc(jinja_run *r, size_t n, size_t size, void *out);

/* ---- texts (jinja_text.c) ---- */

static inline strview jinja_view(const jinja_text *t) {
    return (strview){t->p, t->n};
}

/* Text that grows. Zero-initialize. */
typedef struct jinja_builder {
    char *p;
    unsigned char *marks; /* NULL while all bytes are as `user` says */
    size_t n, capacity;
    bool user;
} jinja_builder;

nib_status jinja_reserve(jinja_run *r, jinja_builder *b, size_t n); /* room for N bytes more */
nib_status jinja_build(jinja_run *r, jinja_builder *b, const char *p, size_t n, bool user);
nib_status jinja_build_text(jinja_run *r, jinja_builder *b, const jinja_text *t);
nib_status jinja_build_words(jinja_run *r, jinja_builder *b, const char *words); /* of the template */
/* A builder that goes on where T ends, without copying T where it can: what a loop adds piece by piece to one
 * text is copied once, not once a turn. MORE: bytes that will follow. */
nib_status jinja_resume(jinja_run *r, jinja_builder *b, const jinja_text *t, size_t more);
/* A value of what was built; the builder is not used any more. */
nib_status jinja_built(jinja_run *r, jinja_builder *b, jinja_value *out);

nib_status jinja_new_text(jinja_run *r, const char *p, size_t n, bool user, jinja_value *out); /* copies */
/* Bytes [from, to) of T, not copied. */
nib_status jinja_cut(jinja_run *r, const jinja_text *t, size_t from, size_t to, jinja_value *out);
bool jinja_is_space(uint32_t code);       /* what Python's str.strip() takes */
size_t jinja_characters(strview s);       /* code points */
size_t jinja_offset(strview s, size_t k); /* bytes before the K-th code point; s.n past the end */
size_t jinja_space_before(strview s);     /* bytes of s without white space at its end */
size_t jinja_space_after(strview s);      /* bytes of white space at its start */
/* The same for characters of CHARS. */
size_t jinja_chars_before(strview s, strview chars);
size_t jinja_chars_after(strview s, strview chars);
size_t jinja_last_character(strview s); /* where it begins; s.n > 0 */
/* Where PART stands in s at or after FROM; s.n + 1: nowhere. */
size_t jinja_find(strview s, strview part, size_t from);

/* ---- values (jinja_value.c) ---- */

static inline jinja_value jinja_none(void) {
    return (jinja_value){.kind = JINJA_NONE};
}

static inline jinja_value jinja_bool(bool b) {
    return (jinja_value){.kind = JINJA_BOOL, .b = b};
}

static inline jinja_value jinja_int(int64_t i) {
    return (jinja_value){.kind = JINJA_INT, .i = i};
}

static inline jinja_value jinja_float(double f) {
    return (jinja_value){.kind = JINJA_FLOAT, .f = f};
}

static inline bool jinja_is_number(jinja_value v) {
    return v.kind == JINJA_INT || v.kind == JINJA_FLOAT || v.kind == JINJA_BOOL;
}

static inline bool jinja_is_integer(jinja_value v) { /* bool is an int in Python */
    return v.kind == JINJA_INT || v.kind == JINJA_BOOL;
}

static inline int64_t jinja_integer(jinja_value v) {
    return v.kind == JINJA_BOOL ? v.b : v.i;
}

static inline double jinja_real(jinja_value v) {
    return v.kind == JINJA_FLOAT ? v.f : (double)jinja_integer(v);
}

static inline bool jinja_is_list(jinja_value v) { /* has items */
    return v.kind == JINJA_LIST || v.kind == JINJA_TUPLE || v.kind == JINJA_GENERATOR;
}

nib_status jinja_new_list(jinja_run *r, jinja_kind kind, size_t capacity, jinja_value *out);
nib_status jinja_push(jinja_run *r, jinja_value list, jinja_value item);
nib_status jinja_new_pair(jinja_run *r, jinja_value a, jinja_value b, jinja_value *out); /* a tuple */
nib_status jinja_new_dict(jinja_run *r, jinja_value *out);
/* Replaces the value of an equal key. */
nib_status jinja_put(jinja_run *r, jinja_value dict, jinja_value key, jinja_value value);
nib_status jinja_put_name(jinja_run *r, jinja_value dict, const char *name, jinja_value value);
/* NULL: not there, or out of steps (then the next step fails) */
const jinja_value *jinja_get(jinja_run *r, const jinja_dict *d, jinja_value key);
const jinja_value *jinja_get_name(jinja_run *r, const jinja_dict *d, strview name);

bool jinja_truth(jinja_value v);
const char *jinja_type(jinja_value v);          /* as Python calls it */
const char *jinja_type_in_words(jinja_value v); /* as Jinja calls it: "dict object" */
nib_status jinja_equal(jinja_run *r, jinja_value a, jinja_value b, bool *out);
/* a < b: -1, equal: 0, else 1. OP for the sentence when the two have no order. */
nib_status jinja_compare(jinja_run *r, jinja_value a, jinja_value b, const char *op, int *out);
nib_status jinja_contains(jinja_run *r, jinja_value container, jinja_value item, bool *out);
/* What a loop over V meets: characters, items, keys. A generator is empty afterwards. */
nib_status jinja_items(jinja_run *r, jinja_value v, const jinja_list **out);
nib_status jinja_length(jinja_run *r, jinja_value v, int64_t *out);
/* Fails with the sentence of an undefined value; NIB_OK for any other. */
nib_status jinja_defined(jinja_run *r, jinja_value v);
nib_status jinja_missing_name(jinja_run *r, const char *owner, strview name, jinja_value *out);
nib_status jinja_missing_words(jinja_run *r, const char *words, jinja_value *out);
/* A value of JSON; its strings are a user's. */
nib_status jinja_from_json(jinja_run *r, const json_t *json, jinja_value *out);

/* ---- as text (jinja_print.c) ---- */

typedef struct jinja_json_style {
    bool ensure_ascii, sort_keys, pretty;
    strview indent;    /* of one level, when pretty */
    strview item, key; /* separators */
} jinja_json_style;

nib_status jinja_print(jinja_run *r, jinja_builder *b, jinja_value v); /* str() */
nib_status jinja_repr(jinja_run *r, jinja_builder *b, jinja_value v, int depth);
nib_status jinja_json(jinja_run *r, jinja_builder *b, jinja_value v, const jinja_json_style *style,
                      int depth);
nib_status jinja_to_text(jinja_run *r, jinja_value v, const jinja_text **out); /* str() */
void jinja_float_repr(double f, char out[32]);

#endif
