/* SPDX-License-Identifier: Apache-2.0
 *
 * What the fuzz targets of structured output share: a shape out of hostile bytes is refused in words or
 * compiled, and then an answer is walked along its masks, which must never be empty before the end (the
 * vocabulary has every byte) nor allow what the guide refuses.
 */
#ifndef FUZZ_GUIDE_TARGET_H
#define FUZZ_GUIDE_TARGET_H

#include <stdio.h>

#include "text/guide.h"
#include "text_target.h"

#define GUIDE_TARGET_STEPS 48

typedef struct guide_target_words {
    tokenizer *t;
    trie *trie;
} guide_target_words;

/* Every byte, an end, and pieces that cross the borders of JSON's tokens and of characters. */
static inline guide_target_words guide_target_vocabulary(void) {
    static const char *const pieces[] = {"\"",
                                         "\",",
                                         "\": \"",
                                         "{\"",
                                         "\"}",
                                         "], [",
                                         "ab",
                                         "abc",
                                         "a b",
                                         "\n\n",
                                         "12",
                                         "true",
                                         "\\u",
                                         "\xC3\xA9",
                                         "x\xC3\xA9\"",
                                         "yes",
                                         "a longer text, of words"};
    enum { N_PIECES = sizeof pieces / sizeof *pieces, N = 258 + N_PIECES };
    static guide_target_words words;
    static strview tokens[N];
    static char names[256][8];
    static int32_t types[N];
    static float scores[N];
    if (words.t)
        return words;
    token_source s = token_source_unset("fuzz");
    for (int i = 0; i < 256; i++) {
        snprintf(names[i], sizeof names[i], "<0x%02X>", i);
        tokens[i] = strview_of(names[i]);
        types[i] = TOKEN_BYTE;
    }
    tokens[256] = strview_of("</s>");
    tokens[257] = strview_of("<s>");
    types[256] = types[257] = TOKEN_CONTROL;
    for (int i = 0; i < N_PIECES; i++) {
        tokens[258 + i] = strview_of(pieces[i]);
        types[258 + i] = TOKEN_NORMAL;
    }
    s.model = strview_of("llama");
    s.tokens = tokens;
    s.types = types;
    s.scores = scores;
    s.n_tokens = N;
    s.eos = 256;
    s.add_space_prefix = 0;
    nib_error err = {""};
    text_target_check(tokenizer_open(&words.t, &s, &err) == NIB_OK &&
                      trie_open(&words.trie, words.t, 0, &err) == NIB_OK);
    return words;
}

/* A token that MASK allows, chosen by PICK; -1: there is none. */
static inline int32_t guide_target_pick(const guide_target_words *w, const uint32_t *mask, unsigned pick) {
    const int32_t n = (int32_t)w->trie->n_tokens;
    for (int32_t i = 0; i < n; i++) {
        const int32_t id = (int32_t)((pick * 37u + (unsigned)i) % (unsigned)n);
        if (mask[id >> 5] >> (id & 31) & 1)
            return id;
    }
    return -1;
}

static inline nib_status guide_target_walk(const guide_target_words *w, guide_plan *plan, const uint8_t *data,
                                           size_t size) {
    guide *g, *copy;
    nib_error err = {""};
    nib_status status = guide_open(&g, plan, &err);
    const bool opened = status == NIB_OK;
    for (size_t step = 0; status == NIB_OK && step < GUIDE_TARGET_STEPS && !guide_finished(g); step++) {
        const uint32_t *mask = guide_mask(g);
        if (!mask)
            break;
        const int32_t id = guide_target_pick(w, mask, size ? data[step % size] : 0);
        text_target_check(id >= 0);
        if (!guide_accept(g, id)) {
            text_target_check(guide_failure(g, &err) != NIB_OK);
            break;
        }
        if (step % 16 == 7 && (status = guide_clone(&copy, g, &err)) == NIB_OK) {
            text_target_check(guide_rollback(copy, step % 5));
            guide_close(copy);
        }
    }
    if (status == NIB_OK)
        status = guide_failure(g, &err);
    if (opened)
        guide_close(g);
    text_target_check(status == NIB_OK || err.text[0]);
    return status;
}

/* NIB_NO_MEMORY when an allocation failed anywhere. */
static inline nib_status guide_target_run(guide_kind kind, const uint8_t *data, size_t size) {
    const guide_target_words w = guide_target_vocabulary();
    const strview text = {(const char *)data, size};
    const guide_preamble before = {strview_of(size % 2 ? "" : "<think>"),
                                   strview_of(size % 3 ? "" : "</think>")};
    guide_plan *plan;
    nib_error err = {""};
    nib_status status = guide_plan_open(&plan, kind, text, before, w.trie, w.t, &err);
    text_target_check((status == NIB_OK) == (plan != NULL) && (plan || err.text[0]));
    if (plan)
        status = guide_target_walk(&w, plan, data, size);
    guide_plan_release(plan);
    return status;
}

/* Once as it is; and, for small inputs, with the N-th allocation failing. */
static inline void guide_target(guide_kind kind, const uint8_t *data, size_t size) {
    (void)guide_target_run(kind, data, size);
    nib_status status = size < 200 ? NIB_NO_MEMORY : NIB_OK;
    for (long k = 0; status == NIB_NO_MEMORY; k += 1 + k / 4) {
        mem_fail_after(k);
        status = guide_target_run(kind, data, size);
        mem_fail_after(-1);
    }
}

#endif
