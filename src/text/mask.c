/* SPDX-License-Identifier: Apache-2.0
 *
 * A mask is a walk of the trie by the automaton's states. States that take plain characters alike ("anything
 * inside a string") are found by following one step per character: then the plain tokens' own masks serve and
 * only the rest of the vocabulary is walked.
 */
#include "text/mask.h"

#include "base/mem.h"

#define WORTH_KEEPING 512              /* nodes visited */
#define RUN_END       32               /* bytes; more are not looked for */
#define MAX_UNIVERSAL 16               /* states that plain text leads to and fro between */
#define PLAIN_MIXED   (UINT32_MAX - 1) /* plain characters lead to different states */

nib_status mask_open(mask_cache **out, grammar *g, trie *words, nib_error *err) {
    *out = NULL;
    mask_cache *m = mem_array(1, sizeof *m);
    if (!m)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for token masks");
    m->words = trie_share(words);
    const nib_status status = automaton_open(&m->a, g, err);
    if (status != NIB_OK)
        mask_close(m);
    else
        *out = m;
    return status;
}

void mask_close(mask_cache *m) {
    if (!m)
        return;
    for (size_t i = 0; i < m->n_slots; i++)
        mem_free(m->slots[i].bits);
    automaton_close(m->a);
    trie_release(m->words);
    mem_free(m);
}

uint32_t mask_step(mask_cache *m, uint32_t state, trie_word word) {
    const strview text = word.text;
    if (word.control)
        state = automaton_step(m->a, state, GRAMMAR_CONTROL);
    for (size_t i = 0; i < text.n && state != AUTOMATON_DEAD; i++)
        state = automaton_step(m->a, state, (unsigned char)text.p[i]);
    return state;
}

/* ---- ends inside a character ---- */

/* Bytes that STATE goes on with that are no continuation bytes, and those that are. */
static bool goes_on_outside(const automaton *a, uint32_t state, uint64_t *inside) {
    const automaton_state *s = &a->states[state];
    uint64_t words[4] = {0};
    for (uint32_t k = 0; k < s->n_threads; k++) {
        uint64_t set[4];
        memcpy(set, a->g->sets[a->g->program[a->threads[s->threads + k].pc].a], 32);
        for (unsigned w = 0; w < 4; w++)
            words[w] |= set[w];
    }
    *inside = words[2]; /* 0x80 to 0xBF */
    return words[0] | words[1] | words[3];
}

/* May a token end in STATE? Not inside a character whose missing bytes no tokens have. LEFT bounds how many.
 */
static bool find_finishable(mask_cache *m, uint32_t state, unsigned left) {
    uint64_t inside;
    if (m->a->states[state].can_end || goes_on_outside(m->a, state, &inside))
        return true;
    for (unsigned i = 0; i < 64; i++)
        if (inside >> i & 1 && m->words->single[0x80 + i]) {
            const uint32_t to = automaton_step(m->a, state, (unsigned char)(0x80 + i));
            if (to != AUTOMATON_DEAD && left > 0 && find_finishable(m, to, left - 1))
                return true;
        }
    return false;
}

static inline bool is_finishable(mask_cache *m, uint32_t state) {
    if (m->a->states[state].finishable < 0) {
        const bool is = find_finishable(m, state, 3);
        m->a->states[state].finishable = is;
    }
    return m->a->states[state].finishable;
}

/* ---- plain characters ---- */

/* A few states, each once. */
typedef struct states {
    uint32_t list[MAX_UNIVERSAL];
    size_t n;
} states;

/* False when there is no room. */
static bool states_add(states *s, uint32_t state) {
    for (size_t i = 0; i < s->n; i++)
        if (s->list[i] == state)
            return true;
    if (s->n == MAX_UNIVERSAL)
        return false;
    s->list[s->n++] = state;
    return true;
}

/* Adds to TO where STATE goes by the bytes FIRST to LAST and TAIL continuation bytes; by classes, since bytes
 * of one class go one way. False when there is no room. */
static bool add_ways(mask_cache *m, uint32_t state, unsigned first, unsigned last, unsigned tail,
                     states *to) {
    uint32_t seen[8] = {0};
    for (unsigned byte = first; byte <= last; byte++) {
        const unsigned class = m->a->g->classes[byte];
        if (seen[class >> 5] >> (class & 31) & 1)
            continue;
        seen[class >> 5] |= UINT32_C(1) << (class & 31);
        const uint32_t next = automaton_step(m->a, state, (unsigned char)byte);
        const bool more = tail > 0 && next != AUTOMATON_DEAD;
        if (!(more ? add_ways(m, next, 0x80, 0xBF, tail - 1, to) : states_add(to, next)))
            return false;
    }
    return true;
}

/* Adds where STATE goes by a plain character, whichever it is. */
static bool add_plain_ways(mask_cache *m, uint32_t state, states *to) {
    static const struct {
        uint8_t first, last; /* lead bytes */
        uint8_t from, till;  /* the first continuation byte, where not all are characters */
        uint8_t tail;        /* bytes after these */
    } plain[] = {{0x20, 0x21, 0, 0, 0},       {0x23, 0x5B, 0, 0, 0},       {0x5D, 0x7F, 0, 0, 0},
                 {0xC2, 0xDF, 0, 0, 1},       {0xE0, 0xE0, 0xA0, 0xBF, 1}, {0xE1, 0xEC, 0, 0, 2},
                 {0xED, 0xED, 0x80, 0x9F, 1}, {0xEE, 0xEF, 0, 0, 2},       {0xF0, 0xF0, 0x90, 0xBF, 2},
                 {0xF1, 0xF3, 0, 0, 3},       {0xF4, 0xF4, 0x80, 0x8F, 2}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (!plain[i].till) {
            if (!add_ways(m, state, plain[i].first, plain[i].last, plain[i].tail, to))
                return false;
            continue;
        }
        const uint32_t next = automaton_step(m->a, state, plain[i].first);
        if (!(next == AUTOMATON_DEAD ? states_add(to, next)
                                     : add_ways(m, next, plain[i].from, plain[i].till, plain[i].tail, to)))
            return false;
    }
    return true;
}

/* The one state that all plain characters lead to, PLAIN_MIXED when there are several. */
static uint32_t plain_of(mask_cache *m, uint32_t state) {
    if (m->a->states[state].plain == AUTOMATON_UNKNOWN) {
        states to = {.n = 0};
        const bool one = add_plain_ways(m, state, &to) && to.n == 1;
        m->a->states[state].plain = one ? to.list[0] : PLAIN_MIXED;
    }
    return m->a->states[state].plain;
}

/* Does STATE take any plain text, of any length? It does when all states that plain characters lead to, and
 * those that they lead to from there, are few and alive. */
static bool find_universal(mask_cache *m, uint32_t state) {
    states known = {.list = {state}, .n = 1};
    bool is = automaton_step(m->a, state, ' ') != AUTOMATON_DEAD &&
              automaton_step(m->a, state, 'e') != AUTOMATON_DEAD;
    for (size_t i = 0; is && i < known.n; i++)
        is = add_plain_ways(m, known.list[i], &known);
    for (size_t i = 0; is && i < known.n; i++)
        is = known.list[i] != AUTOMATON_DEAD;
    for (size_t i = 0; i < known.n;
         i++) /* of those that led here it holds when it does; else it is not claimed */
        if (is || i == 0)
            m->a->states[known.list[i]].universal = is;
    return is;
}

static inline bool takes_all_plain(mask_cache *m, uint32_t state) {
    const int8_t known = m->a->states[state].universal;
    return known < 0 ? find_universal(m, state) : known;
}

/* The states after 0, 1, ... plain characters, whatever they are, up to TRIE_MAX_PLAIN or where no more may
 * come; how many characters. -1: it matters which. */
static int plain_run(mask_cache *m, uint32_t state, uint32_t chain[TRIE_MAX_PLAIN + 1]) {
    chain[0] = state;
    for (int n = 0; n < TRIE_MAX_PLAIN; n++) {
        state = plain_of(m, state);
        if (state == AUTOMATON_DEAD || state == PLAIN_MIXED)
            return state == AUTOMATON_DEAD ? n : -1;
        chain[n + 1] = state;
    }
    return TRIE_MAX_PLAIN;
}

/* How many bytes of KIND may come, whichever they are; RUN_END for ever. */
static int8_t find_run(mask_cache *m, uint32_t state, trie_kind kind, unsigned depth) {
    const int8_t known = m->a->states[state].runs[kind];
    if (known >= 0)
        return known;
    states to = {.n = 0};
    int8_t run = 0;
    if (add_ways(m, state, 'a', 'z', 0, &to) && to.n == 1 && kind == TRIE_LETTERS)
        add_ways(m, state, 'A', 'Z', 0, &to);
    if (to.n == 1 && to.list[0] == state)
        run = RUN_END;
    else if (to.n == 1 && to.list[0] != AUTOMATON_DEAD && depth < RUN_END)
        run = (int8_t)(find_run(m, to.list[0], kind, depth + 1) + 1);
    run = run > RUN_END ? RUN_END : run;
    m->a->states[state].runs[kind] = run;
    return run;
}

/* All of the subtree below N is taken in STATE. */
static inline bool takes_below(mask_cache *m, const trie_node *n, uint32_t state) {
    for (int kind = 0; kind < TRIE_KINDS; kind++)
        if (n->height[kind] < RUN_END && find_run(m, state, (trie_kind)kind, 0) >= n->height[kind])
            return true;
    return false;
}

/* ---- walks: each returns the nodes that it visited ---- */

static void set_bit(uint32_t *bits, int32_t id) {
    bits[id >> 5] |= UINT32_C(1) << (id & 31);
}

static void clear_bit(uint32_t *bits, int32_t id) {
    bits[id >> 5] &= ~(UINT32_C(1) << (id & 31));
}

/* Sets the tokens of PART that STATE takes. */
static size_t walk(mask_cache *m, const trie_part *part, uint32_t state, uint32_t *bits) {
    uint32_t path[TRIE_MAX_TOKEN + 1];
    size_t visited = 0;
    path[0] = state;
    for (size_t i = 0; i < part->n; visited++) {
        const trie_node n = part->nodes[i];
        const uint32_t to = automaton_step(m->a, path[n.depth], n.byte);
        if (to == AUTOMATON_DEAD) {
            i += n.skip;
            continue;
        }
        path[n.depth + 1] = to;
        if (n.token >= 0 && is_finishable(m, to))
            for (int32_t id = n.token; id >= 0; id = part->same[id])
                set_bit(bits, id);
        i++;
    }
    return visited;
}

/* Whether more of the plain tokens begin so that all is taken from there on than so that nothing is. */
static bool mostly_taken(mask_cache *m, uint32_t state) {
    const trie_part *part = &m->words->plain;
    size_t taken = 0, dead = 0;
    for (size_t i = 0; i < part->n; i += part->nodes[i].skip) {
        const uint32_t to = automaton_step(m->a, state, part->nodes[i].byte);
        if (to == AUTOMATON_DEAD)
            dead += part->nodes[i].skip;
        else if (takes_all_plain(m, to))
            taken += part->nodes[i].skip;
    }
    return taken > dead;
}

/* The plain tokens where it matters which characters come. Where from some character on all are taken, or
 * none, the rest of the subtree is not walked: the bits are those of all plain tokens, or none, to begin
 * with. */
static size_t walk_plain(mask_cache *m, uint32_t state, uint32_t *bits) {
    const trie_part *part = &m->words->plain;
    const size_t n_words = m->words->n_words;
    const bool all = mostly_taken(m, state);
    uint32_t path[TRIE_MAX_TOKEN + 1];
    size_t visited = 0;
    path[0] = state;
    if (all)
        memcpy(bits, m->words->at_most + (TRIE_MAX_PLAIN - 1) * n_words, n_words * sizeof *bits);
    for (size_t i = 0; i < part->n; visited++) {
        const trie_node n = part->nodes[i];
        const uint32_t to = automaton_step(m->a, path[n.depth], n.byte);
        const bool taken =
            to != AUTOMATON_DEAD && (takes_all_plain(m, to) || (n.skip > 1 && takes_below(m, &n, to)));
        if (to == AUTOMATON_DEAD || taken) {
            for (size_t k = n.rank, end = trie_end(part, i); taken != all && k < end; k++) {
                if (taken)
                    set_bit(bits, part->order[k]);
                else
                    clear_bit(bits, part->order[k]);
            }
            i += n.skip;
            continue;
        }
        path[n.depth + 1] = to;
        const bool ends = n.token >= 0 && is_finishable(m, to);
        for (int32_t id = ends != all ? n.token : -1; id >= 0; id = part->same[id]) {
            if (ends)
                set_bit(bits, id);
            else
                clear_bit(bits, id);
        }
        i++;
    }
    return visited;
}

static size_t find(mask_cache *m, uint32_t state, uint32_t *bits) {
    const size_t n_words = m->words->n_words;
    uint32_t chain[TRIE_MAX_PLAIN + 1];
    const int run = plain_run(m, state, chain);
    size_t visited = run > 0 ? WORTH_KEEPING : 0;
    if (run > 0)
        memcpy(bits, m->words->at_most + (size_t)(run - 1) * n_words, n_words * sizeof *bits);
    else
        memset(bits, 0, n_words * sizeof *bits);
    if (run < 0)
        visited = walk_plain(m, state, bits) + walk(m, &m->words->other, state, bits);
    for (int k = 0; k <= run; k++)
        visited += walk(m, &m->words->tails[k], chain[k], bits);
    if (m->a->states[state].can_end)
        for (size_t i = 0; i < m->words->n_ends; i++)
            set_bit(bits, (int32_t)m->words->ends[i]);
    return visited;
}

/* ---- the kept masks ---- */

/* A slot to fill: a new one, or the next that was not used since the hand came by. NULL: no memory, or none
 * is needed. */
static struct mask_slot *free_slot(mask_cache *m) {
    if (m->n_slots < MASK_KEPT) {
        uint32_t *bits = mem_alloc(m->words->n_words * sizeof *bits);
        if (!bits)
            return NULL;
        m->slots[m->n_slots] = (struct mask_slot){0, false, bits};
        return &m->slots[m->n_slots++];
    }
    for (;; m->hand = (m->hand + 1) % MASK_KEPT) {
        struct mask_slot *slot = &m->slots[m->hand];
        if (!slot->used) {
            m->a->states[slot->state].mask = AUTOMATON_UNKNOWN;
            m->hand = (m->hand + 1) % MASK_KEPT;
            return slot;
        }
        slot->used = false;
    }
}

nib_status mask_find(mask_cache *m, uint32_t state, uint32_t *bits, nib_error *err) {
    const size_t bytes = m->words->n_words * sizeof *bits;
    const uint32_t kept = m->a->states[state].mask;
    if (kept != AUTOMATON_UNKNOWN) {
        m->slots[kept].used = true;
        memcpy(bits, m->slots[kept].bits, bytes);
        return NIB_OK;
    }
    const size_t visited = find(m, state, bits);
    if (m->a->status != NIB_OK)
        return nib_fail(err, m->a->status, "%s", m->a->err.text);
    struct mask_slot *slot = visited >= WORTH_KEEPING ? free_slot(m) : NULL;
    if (slot) {
        memcpy(slot->bits, bits, bytes);
        slot->state = state;
        slot->used = true;
        m->a->states[state].mask = (uint32_t)(slot - m->slots);
    }
    return NIB_OK;
}
