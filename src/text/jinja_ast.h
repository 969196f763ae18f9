/* SPDX-License-Identifier: Apache-2.0
 *
 * The tree of a template: one kind of node, whose fields mean by kind what stands beside the kind. Lives in
 * the template's arena, immutable once parsed. Private to the text room.
 */
#ifndef TEXT_JINJA_AST_H
#define TEXT_JINJA_AST_H

#include "text/jinja.h"
#include "text/jinja_value.h"

typedef enum jinja_node_kind {
    /* expressions */
    JINJA_N_CONST,   /* value */
    JINJA_N_NAME,    /* id, name */
    JINJA_N_LIST,    /* items */
    JINJA_N_TUPLE,   /* items */
    JINJA_N_DICT,    /* items: key, value, key, value ... */
    JINJA_N_CONCAT,  /* items */
    JINJA_N_ATTR,    /* a . name */
    JINJA_N_ITEM,    /* a [ b ] */
    JINJA_N_SLICE,   /* a [ b : c : d ], each may be NULL */
    JINJA_N_CALL,    /* a ( items, keys, star, star_star ) */
    JINJA_N_FILTER,  /* a | name ( ... ) */
    JINJA_N_TEST,    /* a is name ( ... ) */
    JINJA_N_NOT,     /* a */
    JINJA_N_NEGATE,  /* a */
    JINJA_N_PLUS,    /* a */
    JINJA_N_AND,     /* a, b */
    JINJA_N_OR,      /* a, b */
    JINJA_N_MATH,    /* a name b */
    JINJA_N_COMPARE, /* a, then items, each a JINJA_N_OPERAND */
    JINJA_N_OPERAND, /* name ("==" ... "in", "not in"), a */
    JINJA_N_CHOICE,  /* a if b else c; c may be NULL */
    /* statements */
    JINJA_N_DATA,   /* value */
    JINJA_N_OUTPUT, /* a */
    JINJA_N_IF,  /* a: the condition; items: the body; b: a JINJA_N_IF or JINJA_N_BLOCK for else, or NULL */
    JINJA_N_FOR, /* a: target; b: what is looped over; c: condition or NULL; items: body; d: else or NULL */
    JINJA_N_SET, /* a: target; b: value */
    JINJA_N_SET_BLOCK,    /* a: target; b: filters over JINJA_N_CAPTURED, or NULL; items: the body */
    JINJA_N_FILTER_BLOCK, /* b: filters; items: the body */
    JINJA_N_MACRO,        /* id, name; keys: parameters with their defaults (or NULL); items: the body */
    JINJA_N_CALL_BLOCK,   /* a: the call; keys: parameters of the caller; items: the body */
    JINJA_N_WITH,         /* keys: names and values (a NULL name: target in c of it), items: the body */
    JINJA_N_BLOCK,        /* items, in a scope of their own: else of a loop, generation */
    JINJA_N_BODY,         /* items, in the scope around: else of an if */
    JINJA_N_BREAK,
    JINJA_N_CONTINUE,
    JINJA_N_NAMESPACE_ATTR, /* a target: id . name */
    JINJA_N_CAPTURED,       /* what a block wrote, under its filters */
} jinja_node_kind;

typedef struct jinja_key {
    strview name;
    int id;
    struct jinja_node *value;
} jinja_key;

typedef struct jinja_node {
    jinja_node_kind kind;
    int line;
    int id; /* of a variable's name; of a filter or test in its table, -1: there is none of that name */
    strview name;
    jinja_value value;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node **items;
    size_t n_items;
    jinja_key *keys;
    size_t n_keys;
    struct jinja_node *star, *star_star;
} jinja_node;

struct jinja_template {
    arena memory;
    jinja_node *body; /* JINJA_N_BODY */
    strview *names;   /* of variables; a node's id is an index */
    size_t n_names, names_capacity;
    int loop_id; /* of the name `loop`, -1: it is not used */
};

#define JINJA_MAX_NESTING 200 /* of blocks and brackets */

/* ---- between jinja_parser.c (statements) and jinja_parse_expr.c (expressions) ---- */

typedef struct jinja_parser {
    struct jinja_template *t;
    const struct jinja_token *at; /* the token at hand; the last one is the end */
    int depth;
    int loops; /* around, within this macro or block */
    nib_error *err;
} jinja_parser;

nib_status jinja_parse_error(jinja_parser *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
nib_status jinja_new_node(jinja_parser *p, jinja_node_kind kind, jinja_node **out);
nib_status jinja_add_item(jinja_parser *p, jinja_node *to, jinja_node *item);
nib_status jinja_add_key(jinja_parser *p, jinja_node *to, jinja_key key);
nib_status jinja_name_id(jinja_parser *p, strview name, int *id);
bool jinja_at_operator(const jinja_parser *p, const char *op);
bool jinja_at_name(const jinja_parser *p, const char *name);
bool jinja_skip_operator(jinja_parser *p, const char *op);
bool jinja_skip_name(jinja_parser *p, const char *name);
nib_status jinja_want_operator(jinja_parser *p, const char *op);

/* An expression, or several as a tuple; STOP: a name that ends it ("in", "recursive"), or NULL. */
nib_status jinja_parse_tuple(jinja_parser *p, bool with_choice, const char *stop, jinja_node **out);
nib_status jinja_parse_expression(jinja_parser *p, jinja_node **out);
/* A target of set or for: names, namespace attributes where WITH_NAMESPACE, tuples of these. */
nib_status jinja_parse_target(jinja_parser *p, bool with_namespace, const char *stop, jinja_node **out);
/* "| filter | filter" over A (an expression or JINJA_N_CAPTURED); INLINE: the first has no bar. */
nib_status jinja_parse_filters(jinja_parser *p, jinja_node *a, bool is_inline, jinja_node **out);

#endif
