/* SPDX-License-Identifier: Apache-2.0
 *
 * Steps of the automaton: threads whose set holds the byte move on, and from there every way that takes no
 * byte is followed (split, call, return, count) up to the next sets. Ways that could not come to an end
 * within GRAMMAR_MAX_DEPTH are left out, so a state that is not dead always has a way to the end.
 */
#include "text/automaton.h"

#include <stdlib.h>

#include "base/mem.h"

#define MAX_WORK (1u << 16) /* ways followed in one step */

static void fail(automaton *a, nib_status status, const char *words) {
    if (a->status == NIB_OK)
        a->status = nib_fail(&a->err, status, "%s", words);
}

static bool reserve(automaton *a, void *list, size_t *capacity, size_t n, size_t size) {
    if (a->status != NIB_OK)
        return false;
    if (n <= *capacity)
        return true;
    size_t wanted = *capacity ? 2 * *capacity : 64;
    while (wanted < n)
        wanted *= 2;
    void *grown = wanted * size <= AUTOMATON_MAX_BYTES ? mem_resize(*(void **)list, wanted, size) : NULL;
    if (!grown) {
        fail(a, NIB_NO_MEMORY, "no memory to follow the grammar");
        return false;
    }
    *(void **)list = grown;
    *capacity = wanted;
    return true;
}

static uint64_t hash_words(const uint32_t *words, size_t n) {
    uint64_t h = UINT64_C(0x9E3779B97F4A7C15) ^ n;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ words[i]) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    return h;
}

/* Doubles a table of numbers + 1 when it is half full; HASH tells where a number belongs. */
static bool grow_slots(automaton *a, uint32_t **slots, size_t *mask, size_t n,
                       uint64_t (*hash)(const automaton *, uint32_t)) {
    if (*slots && 2 * n <= *mask)
        return a->status == NIB_OK;
    const size_t size = *slots ? 2 * (*mask + 1) : 256;
    uint32_t *fresh = mem_array(size, sizeof *fresh);
    if (!fresh) {
        fail(a, NIB_NO_MEMORY, "no memory to follow the grammar");
        return false;
    }
    for (uint32_t id = 0; *slots && id < n; id++) {
        size_t i = hash(a, id) & (size - 1);
        while (fresh[i])
            i = (i + 1) & (size - 1);
        fresh[i] = id + 1;
    }
    mem_free(*slots);
    *slots = fresh;
    *mask = size - 1;
    return true;
}

/* ---- frames ---- */

static uint64_t frame_hash(const automaton *a, uint32_t id) {
    const automaton_frame *f = &a->frames[id];
    return hash_words((const uint32_t[]){f->pc, f->count, f->parent}, 3);
}

static uint32_t find_frame(automaton *a, uint32_t pc, uint32_t count, uint32_t parent) {
    if (!grow_slots(a, &a->frame_slots, &a->frame_mask, a->n_frames, frame_hash) ||
        !reserve(a, &a->frames, &a->frames_capacity, a->n_frames + 1, sizeof *a->frames))
        return 0;
    size_t i = hash_words((const uint32_t[]){pc, count, parent}, 3) & a->frame_mask;
    for (; a->frame_slots[i]; i = (i + 1) & a->frame_mask) {
        const automaton_frame *f = &a->frames[a->frame_slots[i] - 1];
        if (f->pc == pc && f->count == count && f->parent == parent)
            return a->frame_slots[i] - 1;
    }
    const uint32_t limit = a->g->program[pc].op == OP_LIMIT ? (uint32_t)a->n_frames : a->frames[parent].limit;
    a->frames[a->n_frames] = (automaton_frame){pc, count, parent, a->frames[parent].depth + 1, limit};
    a->frame_slots[i] = (uint32_t)++a->n_frames;
    return (uint32_t)a->n_frames - 1;
}

/* ---- states ---- */

static uint64_t state_hash_of(const automaton_thread *threads, size_t n, bool can_end) {
    return hash_words((const uint32_t *)threads, 2 * n) ^ can_end;
}

static uint64_t state_hash(const automaton *a, uint32_t id) {
    const automaton_state *s = &a->states[id];
    return state_hash_of(a->threads + s->threads, s->n_threads, s->can_end);
}

static int compare_threads(const void *x, const void *y) {
    const automaton_thread *a = x, *b = y;
    if (a->frame != b->frame)
        return a->frame < b->frame ? -1 : 1;
    return (a->pc > b->pc) - (a->pc < b->pc);
}

static bool add_state(automaton *a, const automaton_thread *threads, size_t n, bool can_end) {
    const size_t n_classes = a->g->n_classes;
    size_t states = a->states_capacity;
    if (!reserve(a, &a->states, &states, a->n_states + 1, sizeof *a->states) ||
        !reserve(a, &a->threads, &a->threads_capacity, a->n_threads + n, sizeof *a->threads))
        return false;
    if (states != a->states_capacity) {
        uint32_t *grown = states * n_classes * sizeof *grown <= AUTOMATON_MAX_BYTES
                              ? mem_resize(a->next, states * n_classes, sizeof *grown)
                              : NULL;
        if (!grown) {
            fail(a, NIB_NO_MEMORY, "no memory to follow the grammar");
            return false;
        }
        a->next = grown;
        a->states_capacity = states;
    }
    memset(a->next + a->n_states * n_classes, a->n_states ? 0xFF : 0, n_classes * sizeof *a->next);
    if (n)
        memcpy(a->threads + a->n_threads, threads, n * sizeof *threads);
    a->states[a->n_states++] = (automaton_state){.threads = (uint32_t)a->n_threads,
                                                 .n_threads = (uint32_t)n,
                                                 .can_end = can_end,
                                                 .finishable = -1,
                                                 .universal = -1,
                                                 .runs = {-1, -1},
                                                 .plain = AUTOMATON_UNKNOWN,
                                                 .mask = AUTOMATON_UNKNOWN};
    a->n_threads += n;
    return true;
}

/* In order, each once; how many are left. Few are mostly in order already. */
static size_t sort_threads(automaton_thread *threads, size_t n) {
    if (n > 32)
        qsort(threads, n, sizeof *threads, compare_threads);
    for (size_t i = 1; i < n && n <= 32; i++) {
        const automaton_thread t = threads[i];
        size_t k = i;
        for (; k > 0 && compare_threads(&threads[k - 1], &t) > 0; k--)
            threads[k] = threads[k - 1];
        threads[k] = t;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || compare_threads(&threads[kept - 1], &threads[i]) != 0)
            threads[kept++] = threads[i];
    return kept;
}

/* The number of the state with these threads, which are put in order. */
static uint32_t find_state(automaton *a, automaton_thread *threads, size_t n, bool can_end) {
    if (n == 0 && !can_end)
        return AUTOMATON_DEAD;
    n = sort_threads(threads, n);
    if (!grow_slots(a, &a->state_slots, &a->state_mask, a->n_states, state_hash))
        return AUTOMATON_DEAD;
    size_t i = state_hash_of(threads, n, can_end) & a->state_mask;
    for (; a->state_slots[i]; i = (i + 1) & a->state_mask) {
        const automaton_state *s = &a->states[a->state_slots[i] - 1];
        if (s->n_threads == n && s->can_end == can_end &&
            (n == 0 || memcmp(a->threads + s->threads, threads, n * sizeof *threads) == 0))
            return a->state_slots[i] - 1;
    }
    if (!add_state(a, threads, n, can_end))
        return AUTOMATON_DEAD;
    a->state_slots[i] = (uint32_t)a->n_states;
    return (uint32_t)a->n_states - 1;
}

/* ---- ways that take no byte ---- */

/* Forgets what the last step saw. */
static bool begin_step(automaton *a) {
    a->n_work = a->n_seen = a->n_waiting = 0;
    if (++a->stamp != 0)
        return a->status == NIB_OK;
    memset(a->seen_stamp, 0, (a->seen_mask + 1) * sizeof *a->seen_stamp);
    a->stamp = 1;
    return a->status == NIB_OK;
}

static bool grow_seen(automaton *a) {
    const size_t size = a->seen ? 2 * (a->seen_mask + 1) : 128;
    automaton_thread *fresh = mem_array(size, sizeof *fresh);
    uint32_t *stamps = mem_array(size, sizeof *stamps);
    if (!fresh || !stamps) {
        mem_free(fresh);
        mem_free(stamps);
        fail(a, NIB_NO_MEMORY, "no memory to follow the grammar");
        return false;
    }
    for (size_t k = 0; a->seen && k <= a->seen_mask; k++) {
        if (a->seen_stamp[k] != a->stamp)
            continue;
        size_t i = hash_words((const uint32_t *)&a->seen[k], 2) & (size - 1);
        while (stamps[i] == a->stamp)
            i = (i + 1) & (size - 1);
        fresh[i] = a->seen[k];
        stamps[i] = a->stamp;
    }
    mem_free(a->seen);
    mem_free(a->seen_stamp);
    a->seen = fresh;
    a->seen_stamp = stamps;
    a->seen_mask = size - 1;
    return true;
}

/* May the way from PC still end within the limit that FRAME is in? */
static bool is_within_limit(const automaton *a, uint32_t pc, uint32_t frame) {
    const uint32_t limit = a->frames[frame].limit;
    const automaton_frame *l = &a->frames[limit];
    uint64_t ticks = (uint64_t)l->count + a->g->least[pc];
    for (; frame != limit; frame = a->frames[frame].parent) { /* and what must follow when it returns */
        const automaton_frame *f = &a->frames[frame];
        const grammar_instruction *i = &a->g->program[f->pc];
        ticks += a->g->least[i->next];
        if (i->op == OP_COUNT && a->g->counters[i->a].min > f->count + 1)
            ticks +=
                (uint64_t)(a->g->counters[i->a].min - f->count - 1) * a->g->least[a->g->counters[i->a].body];
    }
    return ticks <= a->g->counters[a->g->program[l->pc].a].max;
}

/* To be followed, unless it was or cannot come to an end. */
static void follow(automaton *a, uint32_t pc, uint32_t frame) {
    if (a->frames[frame].depth + a->g->needs[pc] > GRAMMAR_MAX_DEPTH)
        return;
    if (a->frames[frame].limit && !is_within_limit(a, pc, frame))
        return;
    const automaton_thread t = {frame, pc};
    if (a->g->program[pc].op == OP_SET) { /* one that is there twice is taken out later */
        if (reserve(a, &a->waiting, &a->waiting_capacity, a->n_waiting + 1, sizeof *a->waiting))
            a->waiting[a->n_waiting++] = t;
        if (a->n_waiting > 4 * MAX_WORK)
            fail(a, NIB_UNSUPPORTED, "the grammar can be read in too many ways at once");
        return;
    }
    if ((!a->seen || 2 * a->n_seen > a->seen_mask) && !grow_seen(a))
        return;
    size_t i = hash_words((const uint32_t *)&t, 2) & a->seen_mask;
    for (; a->seen_stamp[i] == a->stamp; i = (i + 1) & a->seen_mask)
        if (a->seen[i].pc == pc && a->seen[i].frame == frame)
            return;
    a->seen[i] = t;
    a->seen_stamp[i] = a->stamp;
    if (++a->n_seen > MAX_WORK)
        fail(a, NIB_UNSUPPORTED, "the grammar can be read in too many ways at once");
    if (reserve(a, &a->work, &a->work_capacity, a->n_work + 1, sizeof *a->work))
        a->work[a->n_work++] = t;
}

/* Turn COUNT of the repeat at PC is done; on with the next turn, or out. */
static void follow_turn(automaton *a, uint32_t pc, uint32_t count, uint32_t parent) {
    const grammar_instruction *i = &a->g->program[pc];
    const grammar_counter *c = &a->g->counters[i->a];
    if (count >= c->min)
        follow(a, i->next, parent);
    if (c->max != GRAMMAR_NO_MAX && count >= c->max)
        return;
    if (c->max == GRAMMAR_NO_MAX && count > c->min)
        count = c->min; /* from there on it does not matter */
    follow(a, c->body, find_frame(a, pc, count, parent));
}

/* FRAME as it is after one more tick. */
static uint32_t ticked(automaton *a, uint32_t frame) {
    uint32_t path[GRAMMAR_MAX_DEPTH + 2];
    size_t n = 0;
    const uint32_t limit = a->frames[frame].limit;
    for (; frame != limit && n < GRAMMAR_MAX_DEPTH + 2; frame = a->frames[frame].parent)
        path[n++] = frame;
    const automaton_frame l = a->frames[limit];
    frame = find_frame(a, l.pc, l.count + 1, l.parent);
    while (n > 0) {
        const automaton_frame f = a->frames[path[--n]];
        frame = find_frame(a, f.pc, f.count, frame);
    }
    return frame;
}

static void follow_return(automaton *a, uint32_t frame) {
    const automaton_frame f = a->frames[frame];
    const grammar_instruction *i = &a->g->program[f.pc];
    if (i->op != OP_COUNT)
        follow(a, i->next, f.parent);
    else
        follow_turn(a, f.pc, f.count + 1, f.parent);
}

/* Follows all of a->work. The state that those make which wait for a byte. */
static uint32_t settle(automaton *a) {
    bool can_end = false;
    for (size_t k = 0; k < a->n_work && a->status == NIB_OK; k++) {
        const automaton_thread t = a->work[k];
        const grammar_instruction *i = &a->g->program[t.pc];
        switch ((grammar_op)i->op) {
        case OP_SPLIT:
            for (uint32_t c = 0; c < i->n; c++)
                follow(a, a->g->choices[i->a + c], t.frame);
            break;
        case OP_GOTO:
            follow(a, i->next, t.frame);
            break;
        case OP_CALL:
            follow(a, i->a, find_frame(a, t.pc, 0, t.frame));
            break;
        case OP_COUNT:
            follow_turn(a, t.pc, 0, t.frame);
            break;
        case OP_LIMIT:
            follow(a, a->g->counters[i->a].body, find_frame(a, t.pc, 0, t.frame));
            break;
        case OP_TICK:
            follow(a, i->next, a->frames[t.frame].limit ? ticked(a, t.frame) : t.frame);
            break;
        case OP_RETURN:
            if (t.frame == 0)
                can_end = true;
            else
                follow_return(a, t.frame);
            break;
        case OP_SET: /* waits */
        case OP_FAIL:
            break;
        }
    }
    const uint32_t to =
        a->status == NIB_OK ? find_state(a, a->waiting, a->n_waiting, can_end) : AUTOMATON_DEAD;
    if (a->states[to].n_threads > AUTOMATON_MAX_THREADS)
        fail(a, NIB_UNSUPPORTED, "the grammar can be read in too many ways at once");
    return a->status == NIB_OK ? to : AUTOMATON_DEAD;
}

uint32_t automaton_start(automaton *a) {
    if (!begin_step(a))
        return AUTOMATON_DEAD;
    follow(a, a->g->start, 0);
    return settle(a);
}

static size_t bytes_used(const automaton *a) {
    return a->n_frames * sizeof *a->frames + a->n_threads * sizeof *a->threads +
           a->n_states * (sizeof *a->states + a->g->n_classes * sizeof *a->next);
}

bool automaton_is_full(const automaton *a) {
    return bytes_used(a) > AUTOMATON_FULL_BYTES;
}

uint32_t automaton_go(automaton *a, uint32_t state, unsigned class) {
    if (!begin_step(a))
        return AUTOMATON_DEAD;
    if (bytes_used(a) > AUTOMATON_MAX_BYTES / 2)
        fail(a, NIB_UNSUPPORTED, "the grammar takes too much memory to follow");
    const automaton_state s = a->states[state];
    uint64_t alike[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX,
                         UINT64_MAX}; /* classes that the same threads take */
    for (uint32_t k = 0; k < s.n_threads; k++) {
        const automaton_thread t = a->threads[s.threads + k];
        const grammar_instruction *i = &a->g->program[t.pc];
        const uint64_t *set = a->g->class_sets[i->a];
        const bool takes = set[class >> 6] >> (class & 63) & 1;
        if (takes)
            follow(a, i->next, t.frame);
        for (unsigned w = 0; w < 4; w++)
            alike[w] &= takes ? set[w] : ~set[w];
    }
    const uint32_t to = settle(a);
    if (a->status != NIB_OK)
        return AUTOMATON_DEAD;
    uint32_t *next = a->next + (size_t)state * a->g->n_classes;
    for (unsigned c = 0; c < a->g->n_classes; c++)
        if (alike[c >> 6] >> (c & 63) & 1)
            next[c] = to;
    return to;
}

/* ---- life ---- */

void automaton_close(automaton *a) {
    if (!a)
        return;
    grammar_release(a->g);
    mem_free(a->frames);
    mem_free(a->states);
    mem_free(a->next);
    mem_free(a->threads);
    mem_free(a->frame_slots);
    mem_free(a->state_slots);
    mem_free(a->work);
    mem_free(a->waiting);
    mem_free(a->seen);
    mem_free(a->seen_stamp);
    mem_free(a);
}

nib_status automaton_open(automaton **out, grammar *g, nib_error *err) {
    *out = NULL;
    automaton *a = mem_array(1, sizeof *a);
    if (!a)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to follow the grammar");
    a->g = grammar_share(g);
    if (reserve(a, &a->frames, &a->frames_capacity, 1, sizeof *a->frames)) {
        a->frames[0] = (automaton_frame){0, 0, 0, 0, 0}; /* the bottom, which nothing finds */
        a->n_frames = 1;
    }
    if (a->status != NIB_OK || !add_state(a, NULL, 0, false)) { /* AUTOMATON_DEAD */
        const nib_status status = nib_fail(err, a->status, "%s", a->err.text);
        automaton_close(a);
        return status;
    }
    *out = a;
    return NIB_OK;
}

static uint32_t import_frame(automaton *a, const automaton *from, uint32_t frame) {
    uint32_t path[GRAMMAR_MAX_DEPTH + 1];
    size_t n = 0;
    for (; frame != 0; frame = from->frames[frame].parent)
        path[n++] = frame;
    while (n > 0) {
        const automaton_frame *f = &from->frames[path[--n]];
        frame = find_frame(a, f->pc, f->count, frame);
    }
    return frame;
}

uint32_t automaton_import(automaton *a, const automaton *from, uint32_t state) {
    const automaton_state s = from->states[state];
    if (!begin_step(a) || !reserve(a, &a->work, &a->work_capacity, s.n_threads, sizeof *a->work))
        return AUTOMATON_DEAD;
    for (uint32_t i = 0; i < s.n_threads; i++) {
        const automaton_thread t = from->threads[s.threads + i];
        a->work[i] = (automaton_thread){import_frame(a, from, t.frame), t.pc};
    }
    return a->status == NIB_OK ? find_state(a, a->work, s.n_threads, s.can_end) : AUTOMATON_DEAD;
}
