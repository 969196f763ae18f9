/* SPDX-License-Identifier: Apache-2.0
 *
 * Depth is found as shortest paths are: values come out in ascending order, each instruction once. Left
 * recursion is a strongly connected component, over the steps that take no byte, with a call inside.
 */
#include "text/grammar_analysis.h"

#include "base/mem.h"

/* Who depends on an instruction: users[first[pc] .. first[pc + 1]). */
typedef struct users {
    uint32_t *first, *list;
} users;

/* Calls VISIT for the instructions that PC's value depends on; at most two but for OP_SPLIT. */
static unsigned sources(const grammar *g, uint32_t pc, uint32_t two[2], const uint32_t **list) {
    const grammar_instruction *i = &g->program[pc];
    *list = two;
    switch ((grammar_op)i->op) {
    case OP_SET:
    case OP_GOTO:
    case OP_TICK:
        two[0] = i->next;
        return 1;
    case OP_CALL:
        two[0] = i->a;
        two[1] = i->next;
        return 2;
    case OP_COUNT:
    case OP_LIMIT:
        two[0] = g->counters[i->a].body;
        two[1] = i->next;
        return 2;
    case OP_SPLIT:
        *list = g->choices + i->a;
        return i->n;
    case OP_RETURN:
    case OP_FAIL:
        break;
    }
    return 0;
}

static nib_status find_users(users *u, const grammar *g, nib_error *err) {
    uint32_t two[2];
    const uint32_t *list;
    size_t total = 0;
    u->first = mem_array(g->n_program + 2, sizeof *u->first);
    if (!u->first)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    for (uint32_t pc = 0; pc < g->n_program; pc++) {
        const unsigned n = sources(g, pc, two, &list);
        total += n;
        for (unsigned i = 0; i < n; i++)
            u->first[list[i] + 2]++;
    }
    u->list = mem_array(total + 1, sizeof *u->list);
    if (!u->list)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    for (size_t pc = 2; pc < g->n_program + 2; pc++)
        u->first[pc] += u->first[pc - 1];
    for (uint32_t pc = 0; pc < g->n_program; pc++) {
        const unsigned n = sources(g, pc, two, &list);
        for (unsigned i = 0; i < n; i++)
            u->list[u->first[list[i] + 1]++] = pc;
    }
    return NIB_OK;
}

/* ---- depth ---- */

#define NO_WAY UINT16_MAX

/* The need of a call or counter once both its parts are known; NO_WAY while one is not. */
static uint16_t need_of_two(const grammar *g, const grammar_instruction *i) {
    const uint16_t after = g->needs[i->next];
    const uint16_t body = g->needs[i->op == OP_CALL ? i->a : g->counters[i->a].body];
    if (i->op == OP_COUNT && g->counters[i->a].min == 0)
        return after;
    if (after == NO_WAY || body == NO_WAY)
        return NO_WAY;
    return body + 1 > after ? (uint16_t)(body + 1) : after;
}

/* WORK is room for two lists of n_program. */
static void find_needs(grammar *g, const users *u, uint32_t *work) {
    uint32_t *now = work, *later = work + g->n_program;
    size_t n_now = 0, n_later = 0;
    memset(g->needs, 0xFF, g->n_program * sizeof *g->needs);
    for (uint32_t pc = 0; pc < g->n_program; pc++)
        if (g->program[pc].op == OP_RETURN) {
            g->needs[pc] = 0;
            now[n_now++] = pc;
        }
    for (uint16_t level = 0; level <= GRAMMAR_MAX_DEPTH && n_now > 0; level++) {
        while (n_now > 0) {
            const uint32_t pc = now[--n_now];
            for (uint32_t k = u->first[pc]; k < u->first[pc + 1]; k++) {
                const uint32_t user = u->list[k];
                const grammar_instruction *i = &g->program[user];
                if (g->needs[user] != NO_WAY)
                    continue;
                const bool two = i->op == OP_CALL || i->op == OP_COUNT || i->op == OP_LIMIT;
                const uint16_t need = two ? need_of_two(g, i) : level;
                if (need == NO_WAY)
                    continue;
                g->needs[user] = need;
                if (need == level)
                    now[n_now++] = user;
                else
                    later[n_later++] = user;
            }
        }
        uint32_t *swap = now;
        now = later;
        later = swap;
        n_now = n_later;
        n_later = 0;
    }
}

/* ---- which instructions reach the end of their rule without a byte ---- */

static void find_empty(const grammar *g, const users *u, bool *empty, uint32_t *work) {
    size_t n = 0;
    for (uint32_t pc = 0; pc < g->n_program; pc++)
        if (g->program[pc].op == OP_RETURN) {
            empty[pc] = true;
            work[n++] = pc;
        }
    while (n > 0) {
        const uint32_t pc = work[--n];
        for (uint32_t k = u->first[pc]; k < u->first[pc + 1]; k++) {
            const uint32_t user = u->list[k];
            const grammar_instruction *i = &g->program[user];
            bool is = i->op == OP_SPLIT || i->op == OP_GOTO || i->op == OP_TICK;
            if (i->op == OP_CALL)
                is = empty[i->a] && empty[i->next];
            else if (i->op == OP_LIMIT)
                is = empty[i->next] && empty[g->counters[i->a].body];
            else if (i->op == OP_COUNT)
                is = empty[i->next] && (g->counters[i->a].min == 0 || empty[g->counters[i->a].body]);
            if (is && !empty[user]) {
                empty[user] = true;
                work[n++] = user;
            }
        }
    }
}

/* ---- left recursion: Tarjan's components, without recursion ---- */

/* Step K from PC that takes no byte; *PUSHES: it goes into a rule or a repeat. UINT32_MAX: no more steps. */
static uint32_t step_without_byte(const grammar *g, const bool *empty, uint32_t pc, uint32_t k,
                                  bool *pushes) {
    const grammar_instruction *i = &g->program[pc];
    *pushes = false;
    switch ((grammar_op)i->op) {
    case OP_SPLIT:
        return k < i->n ? g->choices[i->a + k] : UINT32_MAX;
    case OP_GOTO:
    case OP_TICK:
        return k == 0 ? i->next : UINT32_MAX;
    case OP_CALL:
    case OP_COUNT:
    case OP_LIMIT: {
        const uint32_t body = i->op == OP_CALL ? i->a : g->counters[i->a].body;
        const bool skips = i->op == OP_COUNT && g->counters[i->a].min == 0;
        *pushes = k == 0;
        if (k == 0)
            return body;
        return k == 1 && (empty[body] || skips) ? i->next : UINT32_MAX;
    }
    case OP_SET:
    case OP_RETURN:
    case OP_FAIL:
        break;
    }
    return UINT32_MAX;
}

typedef struct walk {
    uint32_t *order, *low, *component; /* [n]; order and component 0: none yet */
    uint32_t *path, *kid;              /* where the walk stands, and which step comes next */
    uint32_t *open;                    /* not yet in a component */
    size_t n_path, n_open;
    uint32_t n_order, n_components;
} walk;

static void walk_enter(walk *w, uint32_t pc) {
    w->order[pc] = w->low[pc] = ++w->n_order;
    w->kid[w->n_path] = 0;
    w->path[w->n_path++] = pc;
    w->open[w->n_open++] = pc;
}

static void walk_leave(walk *w) {
    const uint32_t pc = w->path[--w->n_path];
    if (w->n_path > 0 && w->low[pc] < w->low[w->path[w->n_path - 1]])
        w->low[w->path[w->n_path - 1]] = w->low[pc];
    if (w->low[pc] != w->order[pc])
        return;
    w->n_components++;
    uint32_t member;
    do {
        member = w->open[--w->n_open];
        w->component[member] = w->n_components;
    } while (member != pc);
}

static void find_components(walk *w, const grammar *g, const bool *empty) {
    for (uint32_t from = 0; from < g->n_program; from++) {
        if (w->order[from])
            continue;
        walk_enter(w, from);
        while (w->n_path > 0) {
            bool pushes;
            const uint32_t pc = w->path[w->n_path - 1];
            const uint32_t to = step_without_byte(g, empty, pc, w->kid[w->n_path - 1]++, &pushes);
            if (to == UINT32_MAX)
                walk_leave(w);
            else if (!w->order[to])
                walk_enter(w, to);
            else if (!w->component[to] && w->order[to] < w->low[pc])
                w->low[pc] = w->order[to];
        }
    }
}

/* The entry of a rule that begins with itself, 0: none. ROOM: six lists of n_program, zeroed. */
static uint32_t find_left_recursion(const grammar *g, const bool *empty, uint32_t *room) {
    const size_t n = g->n_program;
    walk w = {.order = room,
              .low = room + n,
              .component = room + 2 * n,
              .path = room + 3 * n,
              .kid = room + 4 * n,
              .open = room + 5 * n};
    find_components(&w, g, empty);
    for (uint32_t pc = 0; pc < n; pc++) {
        bool pushes;
        const uint32_t to = step_without_byte(g, empty, pc, 0, &pushes);
        if (to != UINT32_MAX && pushes && w.component[pc] == w.component[to])
            return to;
    }
    return 0;
}

/* ---- ticks ---- */

static uint32_t add_ticks(uint32_t a, uint64_t n, uint32_t b) {
    const uint64_t sum = a == UINT32_MAX || b == UINT32_MAX ? UINT32_MAX : a * n + b;
    return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

static uint32_t least_of(const grammar *g, uint32_t pc) {
    const grammar_instruction *i = &g->program[pc];
    uint32_t least = UINT32_MAX;
    switch ((grammar_op)i->op) {
    case OP_SET:
    case OP_GOTO:
    case OP_LIMIT: /* its ticks are its own */
        return g->least[i->next];
    case OP_TICK:
        return add_ticks(1, 1, g->least[i->next]);
    case OP_SPLIT:
        for (uint32_t c = 0; c < i->n; c++)
            least = g->least[g->choices[i->a + c]] < least ? g->least[g->choices[i->a + c]] : least;
        return least;
    case OP_CALL:
        return add_ticks(g->least[i->a], 1, g->least[i->next]);
    case OP_COUNT:
        return g->counters[i->a].min
                   ? add_ticks(g->least[g->counters[i->a].body], g->counters[i->a].min, g->least[i->next])
                   : g->least[i->next];
    case OP_RETURN:
        return 0;
    case OP_FAIL:
        break;
    }
    return UINT32_MAX;
}

/* What follows stands at lower places but for loops and calls, so few rounds do; rules that call others of
 * higher places one inside the other take one each. */
static nib_status find_least(grammar *g, nib_error *err) {
    g->least = mem_array(g->n_program, sizeof *g->least);
    if (!g->least)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    memset(g->least, 0xFF, g->n_program * sizeof *g->least);
    bool changed = true;
    for (int round = 0; changed; round++) {
        if (round == 200)
            return nib_fail(err, NIB_UNSUPPORTED, "the grammar's lengths take too long to find");
        changed = false;
        for (uint32_t pc = 0; pc < g->n_program; pc++) {
            const uint32_t least = least_of(g, pc);
            changed |= least < g->least[pc];
            g->least[pc] = least < g->least[pc] ? least : g->least[pc];
        }
    }
    return NIB_OK;
}

nib_status grammar_analyze(grammar *g, bool limits, uint32_t *recursive, nib_error *err) {
    users u = {0};
    const size_t n = g->n_program;
    uint32_t *room = mem_array(6 * n, sizeof *room);
    bool *empty = mem_array(n, sizeof *empty);
    g->needs = mem_array(n, sizeof *g->needs);
    nib_status status = room && empty && g->needs ? find_users(&u, g, err)
                                                  : nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    if (status == NIB_OK) {
        find_needs(g, &u, room);
        find_empty(g, &u, empty, room);
        for (size_t pc = 0; pc < n && status == NIB_OK; pc++)
            if (g->program[pc].op == OP_COUNT && empty[g->counters[g->program[pc].a].body])
                status =
                    nib_fail(err, NIB_UNSUPPORTED, "the grammar repeats what may be empty a number of times");
        memset(room, 0, 6 * n * sizeof *room);
        if (status == NIB_OK && limits)
            status = find_least(g, err);
        if (status == NIB_OK && (*recursive = find_left_recursion(g, empty, room)) != 0)
            status = nib_fail(err, NIB_UNSUPPORTED, "the grammar is left-recursive");
    }
    mem_free(u.first);
    mem_free(u.list);
    mem_free(room);
    mem_free(empty);
    return status;
}
