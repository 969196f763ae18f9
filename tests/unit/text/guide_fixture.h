/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of structured output share: vocabularies of bytes and pieces, plans, documents.
 */
#ifndef GUIDE_FIXTURE_H
#define GUIDE_FIXTURE_H

#include "text/guide.h"
#include "text_fixture.h"

/* A vocabulary of single bytes (id = byte) and what the test adds. */
typedef struct vocabulary {
    fixture f;
    char spellings[FIXTURE_MAX][64];
    tokenizer *t;
    trie *words;
} vocabulary;

#define VOCABULARY_END 257 /* <|im_end|> of fixture_bytes */

/* Adds a token of these bytes; its id. */
static inline int32_t vocabulary_add(vocabulary *v, const char *bytes) {
    char *spelling = v->spellings[v->f.source.n_tokens];
    size_t n = 0;
    for (; *bytes; bytes++)
        n += utf8_encode(tokenizer_byte_letter((unsigned char)*bytes), spelling + n);
    spelling[n] = '\0';
    return fixture_add(&v->f, spelling, TOKEN_NORMAL, 0);
}

static inline void vocabulary_start(vocabulary *v) {
    memset(v, 0, sizeof *v);
    fixture_bytes(&v->f, "qwen2");
}

static inline void vocabulary_finish(vocabulary *v) {
    nib_error err = {""};
    v->t = fixture_open(&v->f.source);
    assert_int_equal(trie_open(&v->words, v->t, 0, &err), NIB_OK);
}

static inline void vocabulary_close(vocabulary *v) {
    trie_release(v->words);
    tokenizer_close(v->t);
}

static inline guide_plan *plan_of(const vocabulary *v, guide_kind kind, const char *text,
                                  const char *marker) {
    guide_plan *plan;
    nib_error err = {""};
    const guide_preamble before = {.end = strview_of(marker)};
    if (guide_plan_open(&plan, kind, strview_of(text), before, v->words, v->t, &err) != NIB_OK)
        fail_msg("%s: %s", text, err.text);
    return plan;
}

static inline guide *guide_of(guide_plan *plan) {
    guide *g;
    nib_error err = {""};
    assert_int_equal(guide_open(&g, plan, &err), NIB_OK);
    return g;
}

static inline bool mask_has(const uint32_t *mask, int32_t id) {
    return mask && (mask[id >> 5] >> (id & 31) & 1);
}

/* Does the plan allow DOC, byte by byte? Mask and guide_accept must agree at each. */
static inline bool plan_allows(guide_plan *plan, const char *doc) {
    guide *g = guide_of(plan);
    const size_t n = strlen(doc);
    bool allowed = true;
    for (size_t i = 0; i <= n && allowed; i++) {
        const int32_t token = i < n ? (unsigned char)doc[i] : VOCABULARY_END;
        const bool in_mask = mask_has(guide_mask(g), token);
        assert_int_equal(guide_can_end(g), mask_has(guide_mask(g), VOCABULARY_END));
        allowed = guide_accept(g, token);
        if (allowed != in_mask)
            fail_msg("mask and guide disagree at byte %zu of %s", i, doc);
    }
    guide_close(g);
    return allowed;
}

/* Refused, with these words. */
static inline void plan_refused(const vocabulary *v, guide_kind kind, const char *text, nib_status status,
                                const char *words) {
    guide_plan *plan;
    nib_error err = {""};
    const double from = cpu_seconds();
    const nib_status got = guide_plan_open(&plan, kind, strview_of(text), (guide_preamble){.end = {NULL, 0}},
                                           v->words, v->t, &err);
    assert_null(plan);
    if (got != status || !strstr(err.text, words))
        fail_msg("%.60s: status %d, \"%s\", expected \"%s\"", text, (int)got, err.text, words);
    assert_true(cpu_seconds() - from < 2);
}

#endif
