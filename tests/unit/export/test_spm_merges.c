/* SPDX-License-Identifier: Apache-2.0
 *
 * The merges of a SentencePiece vocabulary are those that trying every cut finds, in their order, and pieces
 * made to be slow are neither slow nor do they fill memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#include "../../golden/num/golden.h"
#include "base/clock.h"
#include "base/mem.h"
#include "export/spm_merges.h"

#define SLOW_S 5.0 /* what was made slow took minutes */

static nib_error err;

static strview *copies_of_a(size_t n, size_t longest) {
    static char letters[TOKEN_SOURCE_MAX_PIECE];
    static strview list[2000];
    assert_true(n <= 2000);
    memset(letters, 'a', sizeof letters);
    for (size_t i = 0; i < n; i++)
        list[i] = (strview){letters, longest - i};
    return list;
}

static bool is_piece(const token_source *w, strview text) {
    for (size_t i = 0; i < w->n_tokens; i++)
        if ((token_source_type(w, i) == TOKEN_NORMAL || token_source_type(w, i) == TOKEN_USER) &&
            strview_equal(w->tokens[i], text))
            return true;
    return false;
}

/* Of one piece, the longest left part first: how many merges it has, each found at its place in LIST. */
static size_t check_piece(const token_source *w, size_t id, const json_t *list, size_t from) {
    strview text = w->tokens[id];
    size_t n = 0;
    for (size_t cut = text.n; cut-- > 1;) {
        strview left = {text.p, cut}, right = {text.p + cut, text.n - cut};
        if (((unsigned char)text.p[cut] & 0xc0) == 0x80 || !is_piece(w, left) || !is_piece(w, right))
            continue;
        const json_t *pair = json_array_get(list, from + n++);
        assert_true(strview_is(left, json_string_value(json_array_get(pair, 0))));
        assert_true(strview_is(right, json_string_value(json_array_get(pair, 1))));
    }
    return n;
}

/* Words of up to six letters, one of them of two bytes; some are no pieces that merge. */
static void test_every_cut(void **state) {
    (void)state;
    enum { N = 300 };
    static const char *const letters[] = {"a", "b", "\xc3\xa9"};
    static char texts[N][16];
    static strview tokens[N];
    static float scores[N];
    static int32_t types[N];
    token_source w = {
        .where = "x", .model = strview_of("llama"), .tokens = tokens, .scores = scores, .types = types};
    for (uint64_t i = 0; w.n_tokens < N; i++) {
        uint64_t word = golden_word(7, i);
        char *p = texts[w.n_tokens];
        p[0] = '\0';
        for (uint64_t k = 0; k < (w.n_tokens < 3 ? 1 : 1 + word % 6); k++)
            strcat(p, letters[w.n_tokens < 3 ? w.n_tokens : (word >> (8 * k + 8)) % 3]);
        types[w.n_tokens] = w.n_tokens % 10 == 9  ? TOKEN_UNUSED
                            : w.n_tokens % 7 == 6 ? TOKEN_USER
                                                  : TOKEN_NORMAL;
        scores[w.n_tokens] = -(float)w.n_tokens;
        bool there = false;
        for (size_t k = 0; k < w.n_tokens; k++)
            there |= strcmp(texts[k], p) == 0;
        tokens[w.n_tokens] = strview_of(p);
        w.n_tokens += !there;
    }
    json_t *list;
    size_t n = 0;
    assert_int_equal(spm_merges(&list, &w, &err), NIB_OK);
    for (size_t i = 0; i < N; i++)
        if (types[i] != TOKEN_UNUSED)
            n += check_piece(&w, i, list, n);
    assert_int_equal(json_array_size(list), n);
    assert_in_range(n, 200, 10000);
    json_decref(list);
}

static void test_long_pieces(void **state) {
    (void)state;
    token_source w = {.where = "x", .n_tokens = 100, .tokens = copies_of_a(100, TOKEN_SOURCE_MAX_PIECE)};
    json_t *list;
    double from = clock_seconds();
    assert_int_equal(spm_merges(&list, &w, &err), NIB_OK);
    assert_true(clock_seconds() - from < SLOW_S);
    assert_int_equal(json_array_size(list), 0); /* no two of them are as short as the longest */
    json_decref(list);
}

/* Each of 2,000 pieces is made of two others in as many ways as it has letters: some 2.5 GiB of merges. */
static void test_too_many(void **state) {
    (void)state;
    token_source w = {.where = "x.gguf", .n_tokens = 2000, .tokens = copies_of_a(2000, 2000)};
    json_t *list;
    double from = clock_seconds();
    assert_int_equal(spm_merges(&list, &w, &err), NIB_UNSUPPORTED);
    assert_true(clock_seconds() - from < SLOW_S);
    assert_null(list);
    assert_string_equal(err.text, "x.gguf: tokenizer.ggml.tokens: its pieces make more merges than a "
                                  "tokenizer.json of 256 MiB holds; write a GGUF file instead");
}

static void test_no_memory(void **state) {
    (void)state;
    token_source w = {.where = "x", .n_tokens = 5, .tokens = copies_of_a(5, 5)};
    json_t *list = NULL;
    nib_status status = NIB_NO_MEMORY;
    long n = 0;
    for (; status != NIB_OK; n++) {
        mem_fail_after(n);
        status = spm_merges(&list, &w, &err);
        mem_fail_after(-1);
        assert_true(status == NIB_OK || (status == NIB_NO_MEMORY && !list));
    }
    assert_true(n >= 3);
    assert_int_equal(json_array_size(list), 4 + 3 + 2 + 1);
    json_decref(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_long_pieces),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
