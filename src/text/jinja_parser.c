/* SPDX-License-Identifier: Apache-2.0
 *
 * Statements of a template, and what both halves of the parser share: nodes, names, tokens.
 */
#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

/* ---- nodes and names ---- */

nib_status jinja_parse_error(jinja_parser *p, const char *format, ...) {
    char words[300];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    return nib_fail(p->err, NIB_BAD_FILE, "chat template, line %d: %s", p->at->line, words);
}

static nib_status no_memory(jinja_parser *p) {
    return nib_fail(p->err, NIB_NO_MEMORY, "no memory for the chat template");
}

nib_status jinja_new_node(jinja_parser *p, jinja_node_kind kind, jinja_node **out) {
    jinja_node *n = *out = arena_alloc(&p->t->memory, 1, sizeof *n);
    if (!n)
        return no_memory(p);
    n->kind = kind;
    n->line = p->at->line;
    return NIB_OK;
}

/* Room for one more of SIZE bytes: the capacity is the power of two from 4 that holds N. */
static void *grow(jinja_parser *p, void *list, size_t n, size_t size) {
    if (n >= 4 ? (n & (n - 1)) != 0 : n > 0)
        return list;
    char *grown = arena_alloc(&p->t->memory, n ? 2 * n : 4, size);
    if (grown && n)
        memcpy(grown, list, n * size);
    return grown;
}

nib_status jinja_add_item(jinja_parser *p, jinja_node *to, jinja_node *item) {
    jinja_node **grown = grow(p, to->items, to->n_items, sizeof *grown);
    if (!grown)
        return no_memory(p);
    to->items = grown;
    to->items[to->n_items++] = item;
    return NIB_OK;
}

nib_status jinja_add_key(jinja_parser *p, jinja_node *to, jinja_key key) {
    jinja_key *grown = grow(p, to->keys, to->n_keys, sizeof *grown);
    if (!grown)
        return no_memory(p);
    to->keys = grown;
    to->keys[to->n_keys++] = key;
    return NIB_OK;
}

nib_status jinja_name_id(jinja_parser *p, strview name, int *id) {
    struct jinja_template *t = p->t;
    for (size_t i = 0; i < t->n_names; i++)
        if (strview_equal(t->names[i], name)) {
            *id = (int)i;
            return NIB_OK;
        }
    if (t->n_names >= 1024)
        return jinja_parse_error(p, "more than 1024 names of variables");
    strview *grown = grow(p, t->names, t->n_names, sizeof *grown);
    if (!grown)
        return no_memory(p);
    t->names = grown;
    t->names[t->n_names] = name;
    *id = (int)t->n_names++;
    return NIB_OK;
}

/* ---- tokens ---- */

bool jinja_at_operator(const jinja_parser *p, const char *op) {
    return p->at->kind == JINJA_T_OPERATOR && strview_is(p->at->text, op);
}

bool jinja_at_name(const jinja_parser *p, const char *name) {
    return p->at->kind == JINJA_T_NAME && strview_is(p->at->text, name);
}

bool jinja_skip_operator(jinja_parser *p, const char *op) {
    const bool found = jinja_at_operator(p, op);
    p->at += found;
    return found;
}

bool jinja_skip_name(jinja_parser *p, const char *name) {
    const bool found = jinja_at_name(p, name);
    p->at += found;
    return found;
}

nib_status jinja_want_operator(jinja_parser *p, const char *op) {
    if (jinja_skip_operator(p, op))
        return NIB_OK;
    return jinja_parse_error(p, "expected '%s', got '%.*s'", op,
                             (int)(p->at->text.n < 60 ? p->at->text.n : 60), p->at->text.p);
}

static nib_status want_kind(jinja_parser *p, jinja_token_kind kind, const char *words) {
    if (p->at->kind != kind)
        return jinja_parse_error(p, "expected %s, got '%.*s'", words,
                                 (int)(p->at->text.n < 60 ? p->at->text.n : 60), p->at->text.p);
    p->at++;
    return NIB_OK;
}

static nib_status want_name(jinja_parser *p, strview *name, int *id) {
    *name = p->at->text;
    NIB_TRY(want_kind(p, JINJA_T_NAME, "a name"));
    return jinja_name_id(p, *name, id);
}

/* ---- bodies ---- */

static nib_status parse_statement(jinja_parser *p, jinja_node *to);

static nib_status parse_output(jinja_parser *p, jinja_node *to) {
    jinja_node *n;
    p->at++;
    NIB_TRY(jinja_new_node(p, JINJA_N_OUTPUT, &n));
    NIB_TRY(jinja_parse_tuple(p, true, NULL, &n->a));
    NIB_TRY(want_kind(p, JINJA_T_VARIABLE_END, "the end of the print statement"));
    return jinja_add_item(p, to, n);
}

static nib_status parse_data(jinja_parser *p, jinja_node *to) {
    jinja_node *n;
    NIB_TRY(jinja_new_node(p, JINJA_N_DATA, &n));
    jinja_text *t = arena_alloc(&p->t->memory, 1, sizeof *t);
    if (!t)
        return no_memory(p);
    *t = (jinja_text){p->at->text.p, p->at->text.n, NULL, false, false, NULL};
    n->value = (jinja_value){.kind = JINJA_TEXT, .text = t};
    p->at++;
    return jinja_add_item(p, to, n);
}

static bool at_one_of(const jinja_parser *p, const char *const *names) {
    for (; *names; names++)
        if (jinja_at_name(p, *names))
            return true;
    return false;
}

/* Statements until one of ENDS (ends with NULL), whose name is eaten and given as *end; without ENDS, all. */
static nib_status parse_until(jinja_parser *p, jinja_node *to, const char *const *ends, strview *end) {
    for (;;) {
        if (p->at->kind == JINJA_T_EOF) {
            return ends ? jinja_parse_error(p, "unexpected end of template, expected '%s'", ends[0]) : NIB_OK;
        } else if (p->at->kind == JINJA_T_DATA) {
            NIB_TRY(parse_data(p, to));
        } else if (p->at->kind == JINJA_T_VARIABLE_BEGIN) {
            NIB_TRY(parse_output(p, to));
        } else {
            p->at++; /* JINJA_T_BLOCK_BEGIN */
            if (ends && at_one_of(p, ends)) {
                *end = p->at++->text;
                return NIB_OK;
            }
            NIB_TRY(parse_statement(p, to));
            NIB_TRY(want_kind(p, JINJA_T_BLOCK_END, "the end of the statement"));
        }
    }
}

/* "%}" and the body up to one of ENDS. */
static nib_status parse_body(jinja_parser *p, jinja_node *to, const char *const *ends, strview *end) {
    (void)jinja_skip_operator(p, ":");
    NIB_TRY(want_kind(p, JINJA_T_BLOCK_END, "the end of the statement"));
    return parse_until(p, to, ends, end);
}

static nib_status parse_simple_body(jinja_parser *p, jinja_node *to, const char *end) {
    const char *const ends[] = {end, NULL};
    strview which;
    return parse_body(p, to, ends, &which);
}

/* ---- statements; the keyword has been eaten ---- */

static nib_status parse_if(jinja_parser *p, jinja_node *n) {
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    for (;;) {
        strview end;
        NIB_TRY(jinja_parse_tuple(p, false, NULL, &n->a));
        NIB_TRY(parse_body(p, n, ends, &end));
        if (strview_is(end, "endif"))
            return NIB_OK;
        const bool again = strview_is(end, "elif");
        NIB_TRY(jinja_new_node(p, again ? JINJA_N_IF : JINJA_N_BODY, &n->b));
        n = n->b;
        if (!again)
            return parse_simple_body(p, n, "endif");
    }
}

static nib_status parse_for(jinja_parser *p, jinja_node *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    NIB_TRY(jinja_parse_target(p, false, "in", &n->a));
    if (!jinja_skip_name(p, "in"))
        return jinja_parse_error(p, "expected 'in'");
    NIB_TRY(jinja_parse_tuple(p, false, "recursive", &n->b));
    if (jinja_skip_name(p, "if"))
        NIB_TRY(jinja_parse_expression(p, &n->c));
    if (jinja_at_name(p, "recursive"))
        return nib_fail(p->err, NIB_UNSUPPORTED, "chat template, line %d: recursive loops are not supported",
                        p->at->line);
    strview end;
    p->loops++;
    NIB_TRY(parse_body(p, n, ends, &end));
    p->loops--;
    if (strview_is(end, "endfor"))
        return NIB_OK;
    NIB_TRY(jinja_new_node(p, JINJA_N_BLOCK, &n->d));
    return parse_simple_body(p, n->d, "endfor");
}

/* A body that break and continue do not leave. */
static nib_status parse_closed_body(jinja_parser *p, jinja_node *to, const char *end) {
    const int loops = p->loops;
    p->loops = 0;
    NIB_TRY(parse_simple_body(p, to, end));
    p->loops = loops;
    return NIB_OK;
}

static nib_status parse_set(jinja_parser *p, jinja_node *n) {
    NIB_TRY(jinja_parse_target(p, true, NULL, &n->a));
    if (jinja_skip_operator(p, "="))
        return jinja_parse_tuple(p, true, NULL, &n->b);
    n->kind = JINJA_N_SET_BLOCK;
    jinja_node *captured;
    NIB_TRY(jinja_new_node(p, JINJA_N_CAPTURED, &captured));
    NIB_TRY(jinja_parse_filters(p, captured, false, &n->b));
    return parse_closed_body(p, n, "endset");
}

static nib_status parse_filter_block(jinja_parser *p, jinja_node *n) {
    jinja_node *captured;
    NIB_TRY(jinja_new_node(p, JINJA_N_CAPTURED, &captured));
    NIB_TRY(jinja_parse_filters(p, captured, true, &n->b));
    return parse_closed_body(p, n, "endfilter");
}

static nib_status parse_signature(jinja_parser *p, jinja_node *n) {
    NIB_TRY(jinja_want_operator(p, "("));
    bool defaults = false;
    while (!jinja_at_operator(p, ")")) {
        if (n->n_keys)
            NIB_TRY(jinja_want_operator(p, ","));
        jinja_key key = {0};
        NIB_TRY(want_name(p, &key.name, &key.id));
        if (jinja_skip_operator(p, "=")) {
            NIB_TRY(jinja_parse_expression(p, &key.value));
            defaults = true;
        } else if (defaults) {
            return jinja_parse_error(p, "non-default argument follows default argument");
        }
        NIB_TRY(jinja_add_key(p, n, key));
    }
    return jinja_want_operator(p, ")");
}

static nib_status parse_macro(jinja_parser *p, jinja_node *n) {
    NIB_TRY(want_name(p, &n->name, &n->id));
    NIB_TRY(parse_signature(p, n));
    return parse_closed_body(p, n, "endmacro");
}

static nib_status parse_call_block(jinja_parser *p, jinja_node *n) {
    if (jinja_at_operator(p, "("))
        NIB_TRY(parse_signature(p, n));
    NIB_TRY(jinja_parse_expression(p, &n->a));
    if (n->a->kind != JINJA_N_CALL)
        return jinja_parse_error(p, "expected call");
    return parse_closed_body(p, n, "endcall");
}

static nib_status parse_with(jinja_parser *p, jinja_node *n) {
    while (p->at->kind != JINJA_T_BLOCK_END) {
        if (n->n_keys)
            NIB_TRY(jinja_want_operator(p, ","));
        jinja_key key = {0};
        NIB_TRY(want_name(p, &key.name, &key.id));
        NIB_TRY(jinja_want_operator(p, "="));
        NIB_TRY(jinja_parse_expression(p, &key.value));
        NIB_TRY(jinja_add_key(p, n, key));
    }
    return parse_simple_body(p, n, "endwith");
}

static nib_status parse_generation(jinja_parser *p, jinja_node *n) {
    return parse_closed_body(p, n, "endgeneration");
}

static nib_status parse_print(jinja_parser *p, jinja_node *n) {
    NIB_TRY(jinja_new_node(p, JINJA_N_CONCAT, &n->a));
    while (p->at->kind != JINJA_T_BLOCK_END) {
        jinja_node *item;
        if (n->a->n_items)
            NIB_TRY(jinja_want_operator(p, ","));
        NIB_TRY(jinja_parse_expression(p, &item));
        NIB_TRY(jinja_add_item(p, n->a, item));
    }
    return NIB_OK;
}

static nib_status parse_jump(jinja_parser *p, jinja_node *n) {
    (void)n;
    return p->loops ? NIB_OK : jinja_parse_error(p, "break or continue outside a loop");
}

static nib_status parse_statement(jinja_parser *p, jinja_node *to) {
    static const struct {
        const char *name;
        jinja_node_kind kind;
        nib_status (*parse)(jinja_parser *, jinja_node *);
    } statements[] = {
        {"if", JINJA_N_IF, parse_if},
        {"for", JINJA_N_FOR, parse_for},
        {"set", JINJA_N_SET, parse_set},
        {"macro", JINJA_N_MACRO, parse_macro},
        {"filter", JINJA_N_FILTER_BLOCK, parse_filter_block},
        {"call", JINJA_N_CALL_BLOCK, parse_call_block},
        {"with", JINJA_N_WITH, parse_with},
        {"generation", JINJA_N_BLOCK, parse_generation},
        {"print", JINJA_N_OUTPUT, parse_print},
        {"break", JINJA_N_BREAK, parse_jump},
        {"continue", JINJA_N_CONTINUE, parse_jump},
    };
    static const char *const others[] = {"include", "import", "from", "extends", "block", "autoescape", NULL};
    if (at_one_of(p, others))
        return nib_fail(p->err, NIB_UNSUPPORTED, "chat template, line %d: '%.*s' is not supported",
                        p->at->line, (int)p->at->text.n, p->at->text.p);
    if (++p->depth > JINJA_MAX_NESTING)
        return jinja_parse_error(p, "nested too deep");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!jinja_skip_name(p, statements[i].name))
            continue;
        jinja_node *n;
        NIB_TRY(jinja_new_node(p, statements[i].kind, &n));
        NIB_TRY(statements[i].parse(p, n));
        p->depth--;
        return jinja_add_item(p, to, n);
    }
    return jinja_parse_error(p, "Encountered unknown tag '%.*s'.",
                             (int)(p->at->text.n < 60 ? p->at->text.n : 60), p->at->text.p);
}

/* ---- the whole ---- */

static nib_status parse(struct jinja_template *t, strview source, nib_error *err) {
    jinja_tokens tokens;
    NIB_TRY(jinja_lex(source, &t->memory, &tokens, err));
    jinja_parser p = {.t = t, .at = tokens.list, .err = err};
    nib_status status = jinja_new_node(&p, JINJA_N_BODY, &t->body);
    strview end;
    if (status == NIB_OK)
        status = parse_until(&p, t->body, NULL, &end);
    mem_free(tokens.list);
    t->loop_id = (int)t->n_names - 1;
    while (t->loop_id >= 0 && !strview_is(t->names[t->loop_id], "loop"))
        t->loop_id--;
    return status;
}

nib_status jinja_open(jinja_template **out, strview source, nib_error *err) {
    *out = NULL;
    if (source.n > JINJA_MAX_SOURCE)
        return nib_fail(err, NIB_UNSUPPORTED, "the chat template is longer than %zu bytes", JINJA_MAX_SOURCE);
    if (utf8_valid_prefix(source.p, source.n) != source.n)
        return nib_fail(err, NIB_BAD_FILE, "the chat template is no UTF-8 text");
    jinja_template *t = mem_array(1, sizeof *t);
    if (!t)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the chat template");
    const nib_status status = parse(t, source, err);
    if (status != NIB_OK) {
        jinja_close(t);
        return status;
    }
    *out = t;
    return NIB_OK;
}

void jinja_close(jinja_template *t) {
    if (!t)
        return;
    arena_free(&t->memory);
    mem_free(t);
}

bool jinja_names(const jinja_template *t, const char *name) {
    for (size_t i = 0; i < t->n_names; i++)
        if (strview_is(t->names[i], name))
            return true;
    return false;
}
