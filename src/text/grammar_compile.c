/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes to a program. Written backwards, from what follows to what comes first, so that targets are known
 * but for loops and calls. Small repetitions are written out, others count at run time; a call in the last
 * place is a jump, so that right recursion takes no depth.
 */
#include "base/mem.h"
#include "text/grammar_analysis.h"
#include "text/grammar_parts.h"

#define WRITE_OUT 24 /* instructions that a repetition may be written out to */
#define PC_RETURN 0u
#define PC_FAIL   1u

typedef struct compiler {
    grammar_builder *b;
    grammar *g;
    size_t capacity, choices_capacity, counters_capacity, n_choices, n_counters;
    uint32_t *entries; /* [n_rules], 0: not yet written */
    uint32_t *todo;    /* rules that are called */
    size_t n_todo;
    unsigned depth;
} compiler;

static uint32_t emit(compiler *c, grammar_instruction i) {
    if (!grammar_reserve(c->b, &c->g->program, &c->capacity, c->g->n_program, 1, sizeof *c->g->program,
                         GRAMMAR_MAX_PROGRAM))
        return PC_FAIL;
    c->g->program[c->g->n_program] = i;
    return (uint32_t)c->g->n_program++;
}

/* Room for N choices; their place in the list. */
static uint32_t add_choices(compiler *c, size_t n) {
    if (!grammar_reserve(c->b, &c->g->choices, &c->choices_capacity, c->n_choices, n, sizeof *c->g->choices,
                         2 * GRAMMAR_MAX_PROGRAM))
        return 0;
    c->n_choices += n;
    return (uint32_t)(c->n_choices - n);
}

static uint32_t emit_split(compiler *c, uint32_t x, uint32_t y) {
    const uint32_t at = add_choices(c, 2);
    if (grammar_failed(c->b))
        return PC_FAIL;
    c->g->choices[at] = x;
    c->g->choices[at + 1] = y;
    return emit(c, (grammar_instruction){OP_SPLIT, at, 2, 0});
}

/* ---- questions about nodes; rules count as opaque and never empty ---- */

static unsigned node_size(const grammar_builder *b, grammar_node x, unsigned bound) {
    const node *n = &b->nodes[x];
    unsigned size = 1;
    switch (n->kind) {
    case NODE_TEXT:
        return n->n;
    case NODE_SEQ:
    case NODE_ALT:
        for (uint32_t i = 0; i < n->n && size <= bound; i++)
            size += node_size(b, b->kids[n->a + i], bound);
        return size;
    case NODE_REPEAT:
        return node_size(b, n->a, bound) * (n->max < bound ? n->max : n->n < bound ? n->n + 2 : bound);
    default:
        return size;
    }
}

static bool may_be_empty(const grammar_builder *b, grammar_node x) {
    const node *n = &b->nodes[x];
    bool any = n->kind == NODE_EMPTY, all = true;
    if (n->kind == NODE_REPEAT)
        return n->n == 0 || may_be_empty(b, n->a);
    if (n->kind == NODE_LIMIT)
        return may_be_empty(b, n->a);
    if (n->kind != NODE_SEQ && n->kind != NODE_ALT)
        return any;
    for (uint32_t i = 0; i < n->n; i++) {
        const bool empty = may_be_empty(b, b->kids[n->a + i]);
        any |= empty;
        all &= empty;
    }
    return n->kind == NODE_SEQ ? all : any;
}

/* X without the empty text. */
static grammar_node not_empty(grammar_builder *b, grammar_node x) {
    const node n = b->nodes[x];
    if (grammar_failed(b) || n.kind == NODE_EMPTY)
        return GRAMMAR_NEVER;
    if (!may_be_empty(b, x))
        return x;
    if (n.kind == NODE_LIMIT)
        return grammar_limit(b, not_empty(b, n.a), n.max);
    if (n.kind == NODE_REPEAT) {
        const uint32_t min = may_be_empty(b, n.a) || n.n == 0 ? 1 : n.n;
        return grammar_repeat(b, not_empty(b, n.a), min, n.max);
    }
    /* of a sequence (all of it may be empty): the first part that is not, and what follows it */
    grammar_node result = GRAMMAR_NEVER;
    for (uint32_t i = n.n; i > 0; i--) {
        const grammar_node part = not_empty(b, b->kids[n.a + i - 1]);
        if (n.kind == NODE_ALT) {
            result = GRAMMAR_ALT(b, part, result);
            continue;
        }
        grammar_node rest = GRAMMAR_EMPTY;
        for (uint32_t k = i; k < n.n; k++)
            rest = GRAMMAR_SEQ(b, rest, b->kids[n.a + k]);
        result = GRAMMAR_ALT(b, GRAMMAR_SEQ(b, part, rest), result);
    }
    return result;
}

/* ---- nodes to instructions ---- */

static uint32_t write_node(compiler *c, grammar_node x, uint32_t next);

static uint32_t write_loop(compiler *c, grammar_node x, bool at_least_once, uint32_t next) {
    const uint32_t loop = emit_split(c, PC_FAIL, next);
    const uint32_t body = write_node(c, x, loop);
    if (grammar_failed(c->b))
        return PC_FAIL;
    c->g->choices[c->g->program[loop].a] = body;
    return at_least_once ? body : loop;
}

/* OP_COUNT or OP_LIMIT. */
static uint32_t write_counted(compiler *c, grammar_op op, grammar_node x, uint32_t min, uint32_t max,
                              uint32_t next) {
    const uint32_t body = write_node(c, x, PC_RETURN);
    if (!grammar_reserve(c->b, &c->g->counters, &c->counters_capacity, c->n_counters, 1,
                         sizeof *c->g->counters, GRAMMAR_MAX_PROGRAM))
        return PC_FAIL;
    c->g->counters[c->n_counters] = (grammar_counter){min, max, body};
    return emit(c, (grammar_instruction){op, (uint32_t)c->n_counters++, 0, next});
}

static uint32_t write_repeat(compiler *c, grammar_node x, uint32_t min, uint32_t max, uint32_t next) {
    if (may_be_empty(c->b, x)) { /* an empty turn would count without an end */
        x = not_empty(c->b, x);
        min = 0;
        if (x == GRAMMAR_NEVER)
            return next;
    }
    if (max == GRAMMAR_NO_MAX && min <= 1)
        return write_loop(c, x, min == 1, next);
    const unsigned turns = max == GRAMMAR_NO_MAX ? min : max;
    if (turns > WRITE_OUT || node_size(c->b, x, WRITE_OUT) * turns > WRITE_OUT)
        return write_counted(c, OP_COUNT, x, min, max, next);
    uint32_t at = next;
    if (max == GRAMMAR_NO_MAX)
        at = write_loop(c, x, false, next);
    else
        for (uint32_t i = min; i < max; i++)
            at = emit_split(c, write_node(c, x, at), next);
    for (uint32_t i = 0; i < min; i++)
        at = write_node(c, x, at);
    return at;
}

static uint32_t write_alt(compiler *c, const node n, uint32_t next) {
    const uint32_t at = add_choices(c, n.n);
    uint32_t count = 0;
    for (uint32_t i = 0; i < n.n && !grammar_failed(c->b); i++) {
        const grammar_node kid = c->b->kids[n.a + i];
        if (kid != GRAMMAR_NEVER) {
            const uint32_t pc = write_node(c, kid, next);
            c->g->choices[at + count++] = pc;
        }
    }
    return emit(c, (grammar_instruction){OP_SPLIT, at, count, 0});
}

static uint32_t write_text(compiler *c, const node n, uint32_t next) {
    for (uint32_t i = n.n; i > 0; i--) {
        const unsigned char byte = (unsigned char)c->b->bytes[n.a + i - 1];
        uint8_t set[32] = {0};
        set[byte >> 3] = (uint8_t)(1u << (byte & 7));
        next = emit(c, (grammar_instruction){OP_SET, grammar_set(c->b, set), 0, next});
    }
    return next;
}

static uint32_t write_rule(compiler *c, uint32_t r, uint32_t next) {
    const rule *called = &c->b->rules[r];
    if (!called->defined) {
        grammar_fail(c->b, NIB_UNSUPPORTED, "the grammar uses the rule \"%.*s\", which it does not define",
                     (int)called->name_bytes, c->b->bytes + called->name);
        return PC_FAIL;
    }
    if (c->entries[r] == 0) {
        c->entries[r] = UINT32_MAX;
        c->todo[c->n_todo++] = r;
    }
    /* the entry takes the rule's place when all are written (link_rules) */
    if (next == PC_RETURN)
        return emit(c, (grammar_instruction){OP_GOTO, 0, 1, r});
    return emit(c, (grammar_instruction){OP_CALL, r, 0, next});
}

static uint32_t write_node(compiler *c, grammar_node x, uint32_t next) {
    if (grammar_failed(c->b))
        return PC_FAIL;
    if (++c->depth > 16 * GRAMMAR_MAX_NESTING) {
        grammar_fail(c->b, NIB_UNSUPPORTED, "the grammar is nested too deeply");
        return PC_FAIL;
    }
    const node n = c->b->nodes[x];
    switch ((node_kind)n.kind) {
    case NODE_NEVER:
        next = PC_FAIL;
        break;
    case NODE_EMPTY:
        break;
    case NODE_SET:
        next = emit(c, (grammar_instruction){OP_SET, n.a, 0, next});
        break;
    case NODE_TEXT:
        next = write_text(c, n, next);
        break;
    case NODE_SEQ:
        for (uint32_t i = n.n; i > 0; i--)
            next = write_node(c, c->b->kids[n.a + i - 1], next);
        break;
    case NODE_ALT:
        next = write_alt(c, n, next);
        break;
    case NODE_REPEAT:
        next = write_repeat(c, n.a, n.n, n.max, next);
        break;
    case NODE_RULE:
        next = write_rule(c, n.a, next);
        break;
    case NODE_LIMIT:
        next = write_counted(c, OP_LIMIT, n.a, 0, n.max, next);
        break;
    case NODE_TICK:
        next = emit(c, (grammar_instruction){OP_TICK, 0, 0, next});
        break;
    }
    c->depth--;
    return next;
}

/* ---- the whole program ---- */

static void link_rules(compiler *c) {
    for (size_t pc = 0; pc < c->g->n_program; pc++) {
        grammar_instruction *i = &c->g->program[pc];
        if (i->op == OP_CALL)
            i->a = c->entries[i->a];
        else if (i->op == OP_GOTO)
            i->next = c->entries[i->next];
    }
}

static void write_program(compiler *c, grammar_node root) {
    emit(c, (grammar_instruction){OP_RETURN, 0, 0, 0});
    emit(c, (grammar_instruction){OP_FAIL, 0, 0, 0});
    c->g->start = write_node(c, root, PC_RETURN);
    while (c->n_todo > 0 && !grammar_failed(c->b)) {
        const uint32_t r = c->todo[--c->n_todo];
        c->depth = 0;
        c->entries[r] = write_node(c, c->b->rules[r].body, PC_RETURN);
    }
    if (!grammar_failed(c->b))
        link_rules(c);
}

/* Bytes that no set tells apart get one class. */
static void find_classes(grammar *g, size_t n_sets) {
    g->n_classes = 1;
    for (size_t s = 0; s < n_sets; s++) {
        uint16_t split[256]; /* class -> the class of its bytes that are in the set, 0: none yet */
        bool outside[256] = {false};
        memset(split, 0, sizeof split);
        for (unsigned byte = 0; byte < 256; byte++)
            outside[g->classes[byte]] |= !grammar_set_has(g->sets[s], byte);
        for (unsigned byte = 0; byte < 256; byte++) {
            const uint8_t old = g->classes[byte];
            if (!outside[old] || !grammar_set_has(g->sets[s], byte))
                continue;
            if (split[old] == 0)
                split[old] = (uint16_t)g->n_classes++;
            g->classes[byte] = (uint8_t)split[old];
        }
    }
    for (unsigned byte = 0; byte < 256; byte++)
        g->class_byte[g->classes[byte]] = (uint8_t)byte;
    for (size_t s = 0; s < n_sets; s++)
        for (unsigned class = 0; class < g->n_classes; class ++)
            if (grammar_set_has(g->sets[s], g->class_byte[class]))
                g->class_sets[s][class >> 6] |= UINT64_C(1) << (class & 63);
}

static nib_status name_left_recursion(const compiler *c, uint32_t entry, nib_error *err) {
    strview name = {"", 0};
    for (size_t r = 0; r < c->b->n_rules; r++)
        if (c->entries[r] == entry && c->b->rules[r].name_bytes)
            name = (strview){c->b->bytes + c->b->rules[r].name, c->b->rules[r].name_bytes};
    return nib_fail(err, NIB_UNSUPPORTED,
                    "the grammar is left-recursive%s%.*s: a rule may not begin with itself",
                    name.n ? " in the rule " : "", (int)name.n, name.p);
}

static nib_status finish(compiler *c, nib_error *err) {
    NIB_TRY(grammar_builder_status(c->b, err));
    grammar *g = c->g;
    g->sets = mem_array(c->b->n_sets + 1, sizeof *g->sets);
    g->class_sets = mem_array(c->b->n_sets + 1, sizeof *g->class_sets);
    if (!g->sets || !g->class_sets)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    if (c->b->n_sets)
        memcpy(g->sets, c->b->sets, c->b->n_sets * sizeof *g->sets);
    find_classes(g, c->b->n_sets);
    uint32_t recursive = 0;
    const nib_status status = grammar_analyze(g, c->b->has_limits, &recursive, err);
    if (status == NIB_UNSUPPORTED && recursive)
        return name_left_recursion(c, recursive, err);
    NIB_TRY(status);
    if (g->needs[g->start] > GRAMMAR_MAX_DEPTH)
        return nib_fail(err, NIB_UNSUPPORTED, "nothing can match the grammar");
    return NIB_OK;
}

nib_status grammar_compile(grammar **out, grammar_builder *b, grammar_node root, nib_error *err) {
    *out = NULL;
    NIB_TRY(grammar_builder_status(b, err));
    compiler c = {.b = b};
    c.g = mem_array(1, sizeof *c.g);
    c.entries = mem_array(b->n_rules + 1, sizeof *c.entries);
    c.todo = mem_array(b->n_rules + 1, sizeof *c.todo);
    nib_status status = NIB_OK;
    if (!c.g || !c.entries || !c.todo) {
        status = nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    } else {
        c.g->refs = 1;
        write_program(&c, root);
        status = finish(&c, err);
    }
    mem_free(c.entries);
    mem_free(c.todo);
    if (status == NIB_OK)
        *out = c.g;
    else
        grammar_release(c.g);
    return status;
}

grammar *grammar_share(grammar *g) {
    __atomic_add_fetch(&g->refs, 1, __ATOMIC_RELAXED);
    return g;
}

void grammar_release(grammar *g) {
    if (!g || __atomic_sub_fetch(&g->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    mem_free(g->program);
    mem_free(g->choices);
    mem_free(g->counters);
    mem_free(g->sets);
    mem_free(g->class_sets);
    mem_free(g->needs);
    mem_free(g->least);
    mem_free(g);
}
