/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans and guides. The guides of a plan share one mask cache under the plan's lock. When its automaton has
 * grown large the plan begins a new one, and each guide moves over with the states it still needs.
 */
#include "text/guide.h"

#include <pthread.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/call_shape.h"
#include "text/gbnf.h"
#include "text/mask.h"
#include "text/regex.h"
#include "text/schema.h"

#define MAX_CHOICES 4096

typedef struct shared_cache {
    mask_cache *masks;
    int refs; /* under the plan's lock */
} shared_cache;

struct guide_plan {
    grammar *g;
    trie *words;
    const tokenizer *tokenizer;
    shared_cache *newest;
    pthread_mutex_t lock;
    int refs;
};

struct guide {
    guide_plan *plan;
    shared_cache *cache;
    uint32_t
        *states; /* [n]: before the first token, then after each; of the first `forgotten` nothing is known */
    size_t n, capacity, forgotten;
    bool ended; /* by a token that ends an answer, which is the last */
    uint32_t *bits;
    nib_status status;
    nib_error err;
};

/* ---- plans ---- */

static grammar_node read_choices(grammar_builder *b, strview text) {
    json_t *list = NULL, *one;
    nib_error err = {""};
    size_t i;
    const nib_status status = json_read(&list, text.p, text.n, "the choices", &err);
    if (status != NIB_OK)
        return grammar_fail(b, status == NIB_BAD_FILE ? NIB_BAD_ARGUMENT : status, "%s", err.text);
    const size_t n = json_array_size(list);
    strview *words = mem_array(n + 1, sizeof *words);
    grammar_node all = GRAMMAR_NEVER;
    if (!words)
        grammar_fail(b, NIB_NO_MEMORY, "no memory for choices");
    else if (n == 0 || n > MAX_CHOICES)
        grammar_fail(b, NIB_BAD_ARGUMENT, "the choices: expected a list of 1 to %d strings", MAX_CHOICES);
    json_array_foreach(list, i, one) {
        if (grammar_failed(b))
            break;
        if (!json_is_string(one) || json_string_length(one) == 0)
            grammar_fail(b, NIB_BAD_ARGUMENT, "the choices: number %zu is no string, or is empty", i + 1);
        else
            words[i] = (strview){json_string_value(one), json_string_length(one)};
    }
    if (!grammar_failed(b))
        all = grammar_words(b, words, n);
    mem_free(words);
    json_decref(list);
    return all;
}

static grammar_node read_shape(grammar_builder *b, guide_kind kind, strview text, const tokenizer *t) {
    grammar_node node = GRAMMAR_NEVER;
    arena a = {0};
    const regex *r;
    switch (kind) {
    case GUIDE_JSON_OBJECT:
        node = schema_any_object(b);
        break;
    case GUIDE_JSON_SCHEMA:
        node = schema_read(b, text);
        break;
    case GUIDE_REGEX:
        r = regex_read(b, &a, text, true, "the regular expression");
        node = r ? regex_node(b, r, SPELL_PLAIN) : GRAMMAR_NEVER;
        arena_free(&a);
        break;
    case GUIDE_CHOICE:
        node = read_choices(b, text);
        break;
    case GUIDE_GBNF:
        node = gbnf_read(b, text);
        break;
    case GUIDE_CALL:
        node = call_shape_read(b, text, t);
        break;
    }
    return node;
}

static nib_status cache_open(shared_cache **out, guide_plan *p, nib_error *err) {
    *out = mem_array(1, sizeof **out);
    if (!*out)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for token masks");
    (*out)->refs = 1;
    const nib_status status = mask_open(&(*out)->masks, p->g, p->words, err);
    if (status != NIB_OK) {
        mem_free(*out);
        *out = NULL;
    }
    return status;
}

static void cache_release(shared_cache *c) {
    if (!c || --c->refs > 0)
        return;
    mask_close(c->masks);
    mem_free(c);
}

/* MARK as text, and as control tokens where the vocabulary has them. */
static grammar_node mark_node(grammar_builder *b, strview plain, strview spelled) {
    const grammar_node text = grammar_text(b, plain);
    return strview_equal(plain, spelled) ? text : GRAMMAR_ALT(b, text, grammar_text(b, spelled));
}

static nib_status spell_preamble(const tokenizer *t, guide_preamble before, text_buffer *begin,
                                 text_buffer *end, nib_error *err) {
    NIB_TRY(trie_spell(t, before.begin, begin, err));
    return trie_spell(t, before.end, end, err);
}

/* SHAPE with what may come before it. */
static grammar_node with_preamble(grammar_builder *b, const tokenizer *t, guide_preamble before,
                                  grammar_node shape) {
    text_buffer begin = {0}, end = {0};
    nib_error err = {""};
    const nib_status status = spell_preamble(t, before, &begin, &end, &err);
    if (status != NIB_OK)
        grammar_fail(b, status, "%s", err.text);
    const uint32_t rule = grammar_rule(b, (strview){"", 0});
    grammar_define(b, rule, shape);
    shape = grammar_use(b, rule);
    const grammar_node lines = grammar_repeat(b, grammar_byte(b, '\n', '\n'), 0, 2);
    const grammar_node then = GRAMMAR_SEQ(b, lines, shape);
    const grammar_mark marks[] = {{before.end, then, false}, {{end.bytes, end.n}, then, false}};
    grammar_node all = grammar_until(b, marks, 2, false);
    if (before.begin.n) {
        const grammar_node mark = mark_node(b, before.begin, (strview){begin.bytes, begin.n});
        all = GRAMMAR_ALT(b, GRAMMAR_SEQ(b, mark, all), shape);
    }
    text_buffer_free(&begin);
    text_buffer_free(&end);
    return all;
}

nib_status guide_plan_open(guide_plan **out, guide_kind kind, strview text, guide_preamble before,
                           trie *words, const tokenizer *t, nib_error *err) {
    *out = NULL;
    guide_plan *p = mem_array(1, sizeof *p);
    grammar_builder *b = NULL;
    if (!p)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a guide");
    p->refs = 1;
    p->words = trie_share(words);
    p->tokenizer = t;
    pthread_mutex_init(&p->lock, NULL);
    nib_status status = grammar_builder_open(&b, err);
    if (status == NIB_OK) {
        const grammar_node shape = read_shape(b, kind, text, t);
        status = grammar_compile(&p->g, b, before.end.n ? with_preamble(b, t, before, shape) : shape, err);
    }
    grammar_builder_close(b);
    if (status == NIB_OK)
        status = cache_open(&p->newest, p, err);
    if (status != NIB_OK)
        guide_plan_release(p);
    else
        *out = p;
    return status;
}

guide_plan *guide_plan_share(guide_plan *p) {
    __atomic_add_fetch(&p->refs, 1, __ATOMIC_RELAXED);
    return p;
}

void guide_plan_release(guide_plan *p) {
    if (!p || __atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    cache_release(p->newest);
    grammar_release(p->g);
    trie_release(p->words);
    pthread_mutex_destroy(&p->lock);
    mem_free(p);
}

/* ---- guides; the plan is locked in all that follows up to the public functions ---- */

static automaton *automaton_of(const guide *g) {
    return g->cache->masks->a;
}

static uint32_t state_of(const guide *g) {
    return g->states[g->n - 1];
}

static void fail(guide *g, nib_status status, const char *words) {
    if (g->status == NIB_OK)
        g->status = nib_fail(&g->err, status, "%s", words);
}

/* Replaces the plan's newest cache when it has grown large or failed. */
static nib_status refresh(guide_plan *p, nib_error *err) {
    const automaton *a = p->newest->masks->a;
    shared_cache *fresh;
    if (a->status == NIB_OK && !automaton_is_full(a))
        return NIB_OK;
    NIB_TRY(cache_open(&fresh, p, err));
    cache_release(p->newest);
    p->newest = fresh;
    return NIB_OK;
}

/* Moves G to the plan's newest cache. */
static void renew(guide *g) {
    guide_plan *p = g->plan;
    g->status = refresh(p, &g->err);
    if (g->cache == p->newest || g->status != NIB_OK)
        return;
    automaton *to = p->newest->masks->a;
    const size_t keep = g->n > GUIDE_MAX_ROLLBACK + 1 ? GUIDE_MAX_ROLLBACK + 1 : g->n;
    if (g->n - keep > g->forgotten)
        g->forgotten = g->n - keep;
    for (size_t i = g->forgotten; i < g->n; i++)
        g->states[i] = automaton_import(to, automaton_of(g), g->states[i]);
    if (to->status != NIB_OK)
        fail(g, to->status, to->err.text);
    cache_release(g->cache);
    g->cache = p->newest;
    g->cache->refs++;
}

static bool push_state(guide *g, uint32_t state) {
    if (g->n == g->capacity) {
        const size_t capacity = g->capacity ? 2 * g->capacity : 64;
        uint32_t *grown = mem_resize(g->states, capacity, sizeof *grown);
        if (!grown) {
            fail(g, NIB_NO_MEMORY, "no memory for a guide");
            return false;
        }
        g->states = grown;
        g->capacity = capacity;
    }
    g->states[g->n++] = state;
    return true;
}

static bool accept(guide *g, int32_t token) {
    const guide_plan *p = g->plan;
    const automaton_state *at = &automaton_of(g)->states[state_of(g)];
    if (token < 0 || (size_t)token >= tokenizer_vocab(p->tokenizer))
        return false;
    if (tokenizer_is_end(p->tokenizer, token)) {
        g->ended = at->can_end && push_state(g, state_of(g));
        return g->ended;
    }
    const trie_word word = trie_word_of(p->tokenizer, token);
    if (word.text.n == 0)
        return false;
    const uint32_t to = mask_step(g->cache->masks, state_of(g), word);
    if (automaton_of(g)->status != NIB_OK)
        fail(g, automaton_of(g)->status, automaton_of(g)->err.text);
    return to != AUTOMATON_DEAD && push_state(g, to);
}

/* ---- the public functions ---- */

static nib_status guide_new(guide **out, guide_plan *plan, nib_error *err) {
    guide *g = mem_array(1, sizeof *g);
    *out = NULL;
    if (!g)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a guide");
    g->plan = guide_plan_share(plan);
    g->bits = mem_array(plan->words->n_words, sizeof *g->bits);
    if (!g->bits) {
        guide_close(g);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a guide");
    }
    *out = g;
    return NIB_OK;
}

nib_status guide_open(guide **out, guide_plan *plan, nib_error *err) {
    NIB_TRY(guide_new(out, plan, err));
    guide *g = *out;
    pthread_mutex_lock(&plan->lock);
    g->status = refresh(plan, &g->err);
    g->cache = plan->newest;
    g->cache->refs++;
    push_state(g, automaton_start(automaton_of(g)));
    if (automaton_of(g)->status != NIB_OK)
        fail(g, automaton_of(g)->status, automaton_of(g)->err.text);
    pthread_mutex_unlock(&plan->lock);
    const nib_status status = guide_failure(g, err);
    if (status != NIB_OK) {
        guide_close(g);
        *out = NULL;
    }
    return status;
}

nib_status guide_clone(guide **out, const guide *from, nib_error *err) {
    NIB_TRY(guide_new(out, from->plan, err));
    guide *g = *out;
    pthread_mutex_lock(&g->plan->lock);
    g->cache = from->cache;
    g->cache->refs++;
    pthread_mutex_unlock(&g->plan->lock);
    g->states = mem_alloc(from->n * sizeof *g->states);
    if (!g->states) {
        guide_close(g);
        *out = NULL;
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a guide");
    }
    memcpy(g->states, from->states, from->n * sizeof *g->states);
    g->n = g->capacity = from->n;
    g->forgotten = from->forgotten;
    g->ended = from->ended;
    g->status = from->status;
    g->err = from->err;
    return NIB_OK;
}

void guide_close(guide *g) {
    if (!g)
        return;
    pthread_mutex_lock(&g->plan->lock);
    cache_release(g->cache);
    pthread_mutex_unlock(&g->plan->lock);
    guide_plan_release(g->plan);
    mem_free(g->states);
    mem_free(g->bits);
    mem_free(g);
}

/* Writes the mask to BITS [n_words of the trie]. */
static nib_status find_mask(guide *g, uint32_t *bits) {
    const size_t n_words = g->plan->words->n_words;
    if (g->ended || g->status != NIB_OK) {
        memset(bits, 0, n_words * sizeof *bits);
        return g->status;
    }
    pthread_mutex_lock(&g->plan->lock);
    renew(g);
    if (g->status == NIB_OK)
        g->status = mask_find(g->cache->masks, state_of(g), bits, &g->err);
    pthread_mutex_unlock(&g->plan->lock);
    bool any = false;
    for (size_t i = 0; i < n_words && !any; i++)
        any = bits[i] != 0;
    if (!any)
        fail(g, NIB_UNSUPPORTED, "the vocabulary has no token that goes on as the answer must");
    return g->status;
}

const uint32_t *guide_mask(guide *g) {
    return find_mask(g, g->bits) == NIB_OK ? g->bits : NULL;
}

nib_status guide_fill(guide *g, uint32_t *bits, size_t n_words, nib_error *err) {
    const size_t own = g->plan->words->n_words, both = n_words < own ? n_words : own;
    if (find_mask(g, g->bits) != NIB_OK)
        return guide_failure(g, err);
    memcpy(bits, g->bits, both * sizeof *bits);
    memset(bits + both, 0, (n_words - both) * sizeof *bits);
    return NIB_OK;
}

bool guide_accept(guide *g, int32_t token) {
    if (g->ended || g->status != NIB_OK)
        return false;
    pthread_mutex_lock(&g->plan->lock);
    renew(g);
    const bool taken = g->status == NIB_OK && accept(g, token);
    pthread_mutex_unlock(&g->plan->lock);
    return taken;
}

bool guide_rollback(guide *g, size_t n) {
    if (n >= g->n || g->n - 1 - n < g->forgotten)
        return false;
    g->n -= n;
    g->ended = g->ended && n == 0;
    return true;
}

bool guide_can_end(const guide *g) {
    pthread_mutex_lock(&g->plan->lock);
    const bool can_end = g->ended || automaton_of(g)->states[state_of(g)].can_end;
    pthread_mutex_unlock(&g->plan->lock);
    return can_end;
}

bool guide_finished(const guide *g) {
    pthread_mutex_lock(&g->plan->lock);
    const automaton_state *s = &automaton_of(g)->states[state_of(g)];
    const bool finished = g->ended || (s->can_end && s->n_threads == 0);
    pthread_mutex_unlock(&g->plan->lock);
    return finished;
}

nib_status guide_failure(const guide *g, nib_error *err) {
    return g->status == NIB_OK ? NIB_OK : nib_fail(err, g->status, "%s", g->err.text);
}
