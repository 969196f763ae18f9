/* SPDX-License-Identifier: Apache-2.0
 *
 * See allowed.h.
 */
#include "serve/allowed.h"

#include <string.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct bad_word {
    int32_t *ids; /* [n] nib_free */
    size_t n;
} bad_word;

struct allowed {
    nib_guide guide;
    uint32_t *bits; /* [n_words] before any word has begun */
    size_t n_words;
    bad_word *bad; /* [n_bad] */
    size_t n_bad;
    int32_t *recent; /* [n_recent] the latest tokens, as many as the longest word has before its last */
    size_t n_recent, longest;
};

static void take_away(uint32_t *bits, int32_t token) {
    bits[token / 32] &= ~(1u << (token % 32));
}

static nib_status mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    const allowed *g = context;
    if (n_words != g->n_words)
        return nib_fail(err, NIB_BAD_ARGUMENT, "a mask of %zu words; the vocabulary has %zu", n_words,
                        g->n_words);
    memcpy(bits, g->bits, n_words * sizeof *bits);
    for (size_t i = 0; i < g->n_bad; i++) {
        const bad_word *b = &g->bad[i];
        const size_t before = b->n - 1;
        if (before <= g->n_recent &&
            memcmp(g->recent + g->n_recent - before, b->ids, before * sizeof *b->ids) == 0)
            take_away(bits, b->ids[before]);
    }
    for (size_t i = 0; i < n_words; i++)
        if (bits[i])
            return NIB_OK;
    return nib_fail(err, NIB_BAD_ARGUMENT,
                    "no token is left that may come: 'bad_words' takes away all of 'allowed_token_ids'");
}

static nib_status accept(void *context, int32_t token, nib_error *err) {
    allowed *g = context;
    (void)err;
    if (g->longest == 0)
        return NIB_OK;
    if (g->n_recent == g->longest)
        memmove(g->recent, g->recent + 1, --g->n_recent * sizeof *g->recent);
    g->recent[g->n_recent++] = token;
    return NIB_OK;
}

static bool has_id(const int32_t *ids, size_t n, int32_t id) {
    while (n > 0 && ids[n - 1] != id)
        n--;
    return n > 0;
}

static nib_status make_bits(allowed *g, const nib_info *info, const ask *a, nib_error *err) {
    const int vocab = info->vocab_size;
    size_t n_ends = 0;
    g->n_words = ((size_t)vocab + 31) / 32;
    g->bits = mem_array(g->n_words, sizeof *g->bits);
    if (!g->bits)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
    memset(g->bits, a->allowed ? 0 : 0xff, g->n_words * sizeof *g->bits);
    for (size_t i = 0; i < a->n_allowed; i++) {
        const int32_t id = a->allowed[i];
        if (id >= vocab)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "'allowed_token_ids' holds %d; the vocabulary has %d tokens", id, vocab);
        g->bits[id / 32] |= 1u << (id % 32);
        n_ends += (!a->ignore_eos && has_id(info->ends, info->n_ends, id)) ||
                  has_id(a->stop_ids, a->n_stop_ids, id);
    }
    if (a->allowed && a->min_tokens > 0 && n_ends == a->n_allowed)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "'allowed_token_ids' lets only tokens come that end the answer, which 'min_tokens' forbids");
    return NIB_OK;
}

/* TEXT as the tokens that it has as a text of its own. */
static nib_status add_word(allowed *g, nib_engine *engine, const char *text, size_t n, nib_error *err) {
    bad_word *b = &g->bad[g->n_bad];
    NIB_TRY(
        nib_tokenize(engine, text, n, NIB_TOKENIZE_NO_BOS | NIB_TOKENIZE_NO_SPECIAL, &b->ids, &b->n, err));
    if (b->n == 0) {
        nib_free(b->ids);
        return nib_fail(err, NIB_BAD_ARGUMENT, "'bad_words' holds a word that is no token here");
    }
    g->n_bad++;
    g->longest = b->n - 1 > g->longest ? b->n - 1 : g->longest;
    return NIB_OK;
}

static nib_status make_words(allowed *g, nib_engine *engine, const ask *a, nib_error *err) {
    g->bad = mem_array(2 * a->n_bad_words + 1, sizeof *g->bad);
    if (!g->bad)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
    for (size_t i = 0; i < a->n_bad_words; i++) {
        const char *word = a->bad_words[i] + strspn(a->bad_words[i], " ");
        const size_t n = strlen(word);
        char *spaced = mem_array(n + 2, 1);
        if (!spaced)
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
        spaced[0] = ' ';
        memcpy(spaced + 1, word, n + 1);
        nib_status status = add_word(g, engine, word, n, err);
        if (status == NIB_OK)
            status = add_word(g, engine, spaced, n + 1, err);
        mem_free(spaced);
        NIB_TRY(status);
    }
    g->recent = mem_array(g->longest + 1, sizeof *g->recent);
    return g->recent ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
}

nib_status allowed_open(allowed **out, nib_engine *engine, const ask *a, nib_error *err) {
    nib_info info = {.size = sizeof info};
    *out = NULL;
    if (!a->allowed && a->n_bad_words == 0)
        return NIB_OK;
    NIB_TRY(nib_get_info(engine, &info, err));
    allowed *g = mem_array(1, sizeof *g);
    if (!g)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
    g->guide = (nib_guide){.size = sizeof g->guide, .context = g, .mask = mask, .accept = accept};
    nib_status status = make_bits(g, &info, a, err);
    if (status == NIB_OK)
        status = make_words(g, engine, a, err);
    if (status == NIB_OK)
        *out = g;
    else
        allowed_close(g);
    return status;
}

void allowed_close(allowed *g) {
    if (!g)
        return;
    for (size_t i = 0; i < g->n_bad; i++)
        nib_free(g->bad[i].ids);
    mem_free(g->bad);
    mem_free(g->bits);
    mem_free(g->recent);
    mem_free(g);
}

const nib_guide *allowed_guide(const allowed *g) {
    return &g->guide;
}
