/* SPDX-License-Identifier: Apache-2.0
 *
 * Statements of a template, and a whole rendering. A loop's turn, a macro and a captured block have scopes of
 * their own; an if has none: so a set inside a loop is forgotten with its turn, as in jinja2.
 */
#include <time.h>

#include "base/mem.h"
#include "text/jinja_builtin.h"

#define DEFAULT_STEPS 20000000u
#define DEFAULT_BYTES ((size_t)512 << 20)

/* ---- variables ---- */

nib_status jinja_set(jinja_run *r, jinja_scope *s, int id, jinja_value v) {
    if (!s) {
        r->tops[id] = v;
        r->has_top[id] = true;
        return NIB_OK;
    }
    for (size_t i = 0; i < s->n; i++)
        if (s->ids[i] == id) {
            s->values[i] = v;
            return NIB_OK;
        }
    if (s->n == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 4;
        int *ids;
        jinja_value *values;
        NIB_TRY(jinja_alloc(r, capacity, sizeof *ids, &ids));
        NIB_TRY(jinja_alloc(r, capacity, sizeof *values, &values));
        if (s->n) {
            memcpy(ids, s->ids, s->n * sizeof *ids);
            memcpy(values, s->values, s->n * sizeof *values);
        }
        s->ids = ids;
        s->values = values;
        s->capacity = capacity;
    }
    s->ids[s->n] = id;
    s->values[s->n++] = v;
    return NIB_OK;
}

static nib_status new_scope(jinja_run *r, jinja_scope *parent, jinja_scope **out) {
    NIB_TRY(jinja_alloc(r, 1, sizeof **out, out));
    (*out)->parent = parent;
    return NIB_OK;
}

static nib_status set_attribute(jinja_run *r, jinja_scope *s, const jinja_node *target, jinja_value v) {
    const jinja_node name = {.kind = JINJA_N_NAME, .id = target->id, .name = (strview){"namespace", 9}};
    jinja_value ns, key;
    NIB_TRY(jinja_eval(r, s, &name, &ns));
    if (ns.kind != JINJA_NAMESPACE)
        return jinja_fail(r, "cannot assign attribute on non-namespace object");
    if (target->name.p[0] == '_')
        return jinja_fail(r, "a namespace takes no name that begins with an underscore");
    NIB_TRY(jinja_new_text(r, target->name.p, target->name.n, false, &key));
    return jinja_put(r, ns, key, v);
}

/* Gives V to a target; a tuple takes V apart. */
static nib_status assign(jinja_run *r, jinja_scope *s, const jinja_node *target, jinja_value v) {
    if (target->kind == JINJA_N_NAME)
        return jinja_set(r, s, target->id, v);
    if (target->kind == JINJA_N_NAMESPACE_ATTR)
        return set_attribute(r, s, target, v);
    const jinja_list *items;
    NIB_TRY(jinja_items(r, v, &items));
    if (items->n != target->n_items)
        return jinja_fail(r, "%s values to unpack (expected %zu)",
                          items->n < target->n_items ? "not enough" : "too many", target->n_items);
    for (size_t i = 0; i < items->n; i++)
        NIB_TRY(assign(r, s, target->items[i], items->items[i]));
    return NIB_OK;
}

/* ---- loops ---- */

/* The items that the loop's condition lets through. */
static nib_status filter_items(jinja_run *r, jinja_scope *s, const jinja_node *n, const jinja_list **items) {
    jinja_value kept;
    NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, &kept));
    for (size_t i = 0; i < (*items)->n; i++) {
        jinja_scope *turn;
        jinja_value holds;
        NIB_TRY(new_scope(r, s, &turn));
        NIB_TRY(assign(r, turn, n->a, (*items)->items[i]));
        NIB_TRY(jinja_eval(r, turn, n->c, &holds));
        if (jinja_truth(holds))
            NIB_TRY(jinja_push(r, kept, (*items)->items[i]));
    }
    *items = kept.list;
    return NIB_OK;
}

static nib_status run_loop(jinja_run *r, jinja_scope *s, const jinja_node *n, const jinja_list *items,
                           jinja_builder *out) {
    jinja_loop *loop;
    const int id = r->code->loop_id;
    NIB_TRY(jinja_alloc(r, 1, sizeof *loop, &loop));
    *loop = (jinja_loop){.items = items, .depth = ++r->loop_depth};
    for (size_t i = 0; i < items->n && !r->stopped_loop; i++) {
        jinja_scope *turn;
        NIB_TRY(jinja_step(r, 1));
        NIB_TRY(new_scope(r, s, &turn));
        loop->index = i;
        if (id >= 0)
            NIB_TRY(jinja_set(r, turn, id, (jinja_value){.kind = JINJA_LOOP, .loop = loop}));
        NIB_TRY(assign(r, turn, n->a, items->items[i]));
        NIB_TRY(jinja_exec(r, turn, n, out));
        r->next_turn = false;
    }
    r->stopped_loop = false;
    r->loop_depth--;
    return NIB_OK;
}

static nib_status exec_for(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_builder *out) {
    jinja_value v;
    const jinja_list *items;
    NIB_TRY(jinja_eval(r, s, n->b, &v));
    NIB_TRY(jinja_items(r, v, &items));
    if (n->c)
        NIB_TRY(filter_items(r, s, n, &items));
    if (items->n > 0)
        return run_loop(r, s, n, items, out);
    if (!n->d)
        return NIB_OK;
    jinja_scope *scope;
    NIB_TRY(new_scope(r, s, &scope));
    return jinja_exec(r, scope, n->d, out);
}

/* ---- the others ---- */

static nib_status exec_if(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_builder *out) {
    for (; n && n->kind == JINJA_N_IF; n = n->b) {
        jinja_value holds;
        NIB_TRY(jinja_eval(r, s, n->a, &holds));
        if (jinja_truth(holds))
            break;
    }
    return n ? jinja_exec(r, s, n, out) : NIB_OK;
}

/* What the body of N writes, through the filters of N. */
static nib_status capture(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_builder body = {0};
    jinja_scope *scope, *held;
    NIB_TRY(new_scope(r, s, &scope));
    NIB_TRY(jinja_exec(r, scope, n, &body));
    NIB_TRY(jinja_built(r, &body, out));
    NIB_TRY(new_scope(r, s, &held)); /* for JINJA_N_CAPTURED; no name has the id -1 */
    NIB_TRY(jinja_set(r, held, -1, *out));
    return jinja_eval(r, held, n->b, out);
}

static nib_status exec_with(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_builder *out) {
    jinja_scope *scope;
    NIB_TRY(new_scope(r, s, &scope));
    for (size_t i = 0; i < n->n_keys; i++) {
        jinja_value v;
        NIB_TRY(jinja_eval(r, s, n->keys[i].value, &v)); /* the values do not see one another */
        NIB_TRY(jinja_set(r, scope, n->keys[i].id, v));
    }
    return jinja_exec(r, scope, n, out);
}

static nib_status new_macro(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_macro *m;
    NIB_TRY(jinja_alloc(r, 1, sizeof *m, &m));
    *m = (jinja_macro){n, s};
    *out = (jinja_value){.kind = JINJA_MACRO, .macro = m};
    return NIB_OK;
}

/* {% call f() %}: f gets the body as its `caller`. */
static nib_status exec_call_block(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_builder *out) {
    jinja_value f, caller, result;
    jinja_args args;
    NIB_TRY(jinja_eval(r, s, n->a->a, &f));
    NIB_TRY(jinja_arguments(r, s, n->a, &args));
    NIB_TRY(new_macro(r, s, n, &caller));
    jinja_args with = args;
    with.n_keywords++;
    NIB_TRY(jinja_alloc(r, with.n_keywords, sizeof *with.names, &with.names));
    NIB_TRY(jinja_alloc(r, with.n_keywords, sizeof *with.keywords, &with.keywords));
    for (size_t i = 0; i < args.n_keywords; i++) {
        with.names[i] = args.names[i];
        with.keywords[i] = args.keywords[i];
    }
    with.names[args.n_keywords] = (strview){"caller", 6};
    with.keywords[args.n_keywords] = caller;
    NIB_TRY(jinja_call(r, f, &with, &result));
    return jinja_print(r, out, result);
}

static nib_status exec_one(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_builder *out) {
    jinja_value v;
    jinja_scope *scope;
    switch (n->kind) {
    case JINJA_N_DATA:
        return jinja_build_text(r, out, n->value.text);
    case JINJA_N_OUTPUT:
        NIB_TRY(jinja_eval(r, s, n->a, &v));
        return jinja_print(r, out, v);
    case JINJA_N_IF:
        return exec_if(r, s, n, out);
    case JINJA_N_FOR:
        return exec_for(r, s, n, out);
    case JINJA_N_SET:
        NIB_TRY(jinja_eval(r, s, n->b, &v));
        return assign(r, s, n->a, v);
    case JINJA_N_SET_BLOCK:
        NIB_TRY(capture(r, s, n, &v));
        return assign(r, s, n->a, v);
    case JINJA_N_FILTER_BLOCK:
        NIB_TRY(capture(r, s, n, &v));
        return jinja_print(r, out, v);
    case JINJA_N_MACRO:
        NIB_TRY(new_macro(r, s, n, &v));
        return jinja_set(r, s, n->id, v);
    case JINJA_N_CALL_BLOCK:
        return exec_call_block(r, s, n, out);
    case JINJA_N_WITH:
        return exec_with(r, s, n, out);
    case JINJA_N_BLOCK:
        NIB_TRY(new_scope(r, s, &scope));
        return jinja_exec(r, scope, n, out);
    case JINJA_N_BODY:
        return jinja_exec(r, s, n, out);
    case JINJA_N_BREAK:
        r->stopped_loop = r->next_turn = true;
        return NIB_OK;
    case JINJA_N_CONTINUE:
        r->next_turn = true;
        return NIB_OK;
    default:
        return jinja_fail(r, "a value where the chat template needs a statement");
    }
}

nib_status jinja_exec(jinja_run *r, jinja_scope *s, const jinja_node *body, jinja_builder *out) {
    for (size_t i = 0; i < body->n_items && !r->next_turn; i++) {
        NIB_TRY(jinja_step(r, 1));
        NIB_TRY(exec_one(r, s, body->items[i], out));
    }
    return NIB_OK;
}

/* ---- a whole rendering ---- */

/* Roles are part of control tokens in some templates: those that have a known name are the template's. */
static void trust_roles(jinja_value messages, const char *const *roles) {
    if (messages.kind != JINJA_LIST)
        return;
    for (size_t i = 0; i < messages.list->n; i++) {
        const jinja_value m = messages.list->items[i];
        for (size_t k = 0; m.kind == JINJA_DICT && k < m.dict->n; k++) {
            const jinja_value role = m.dict->values[k];
            if (!strview_is(jinja_view(m.dict->keys[k].text), "role") || role.kind != JINJA_TEXT)
                continue;
            for (const char *const *known = roles; *known; known++)
                if (strview_is(jinja_view(role.text), *known))
                    ((jinja_text *)role.text)->user = false; /* made by jinja_from_json just now */
        }
    }
}

static nib_status give_variables(jinja_run *r, const jinja_options *o) {
    for (size_t i = 0; i < o->n_variables; i++) {
        const jinja_variable *v = &o->variables[i];
        for (size_t id = 0; id < r->code->n_names; id++) {
            if (!strview_is(r->code->names[id], v->name))
                continue;
            jinja_value *value = &r->globals[id];
            NIB_TRY(v->json ? jinja_from_json(r, v->json, value)
                            : jinja_new_text(r, v->text.p, v->text.n, false, value));
            if (o->roles && strcmp(v->name, "messages") == 0)
                trust_roles(*value, o->roles);
        }
    }
    return NIB_OK;
}

static nib_status hand_over(jinja_run *r, const jinja_builder *b, jinja_output *out) {
    out->text = mem_copy_text(b->p ? b->p : "", b->n);
    out->marks = mem_array(b->n + 1, 1);
    if (!out->text || !out->marks)
        return nib_fail(r->err, NIB_NO_MEMORY, "no memory for a prompt of %zu bytes", b->n);
    if (b->marks)
        memcpy(out->marks, b->marks, b->n);
    else
        memset(out->marks, b->user, b->n);
    out->n = b->n;
    return NIB_OK;
}

static nib_status render(jinja_run *r, const jinja_options *o, jinja_output *out) {
    const size_t n = r->code->n_names;
    jinja_builder b = {0};
    NIB_TRY(jinja_alloc(r, n, sizeof *r->globals, &r->globals));
    NIB_TRY(jinja_alloc(r, n, sizeof *r->tops, &r->tops));
    NIB_TRY(jinja_alloc(r, n, sizeof *r->has_top, &r->has_top));
    NIB_TRY(give_variables(r, o));
    NIB_TRY(jinja_exec(r, NULL, r->code->body, &b));
    return hand_over(r, &b, out);
}

nib_status jinja_render(const jinja_template *t, const jinja_options *o, jinja_output *out, nib_error *err) {
    nib_error unheard;
    jinja_run r = {.bytes_left = o->max_bytes ? o->max_bytes : DEFAULT_BYTES,
                   .steps_left = o->max_steps ? o->max_steps : DEFAULT_STEPS,
                   .err = err ? err : &unheard,
                   .code = t,
                   .now = o->now ? o->now : (int64_t)time(NULL)};
    memset(out, 0, sizeof *out);
    const nib_status status = render(&r, o, out);
    if (status != NIB_OK)
        jinja_output_free(out);
    arena_free(&r.memory);
    return status;
}

void jinja_output_free(jinja_output *o) {
    mem_free(o->text);
    mem_free(o->marks);
    memset(o, 0, sizeof *o);
}
