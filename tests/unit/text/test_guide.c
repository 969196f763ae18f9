/* SPDX-License-Identifier: Apache-2.0
 *
 * Guides over vocabularies of many-byte tokens: masks against trying every token, ends, markers, taking back,
 * clones, and characters that a vocabulary cannot finish.
 */
#include "guide_fixture.h"

#include "text/mask.h"

static uint32_t random_state = 7;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* Bytes, pieces of JSON, halves of characters, and two tokens of one text. */
static void many_tokens(vocabulary *v) {
    static const char *const pieces[] = {"\"",
                                         "\",",
                                         "\":",
                                         "\": ",
                                         "\", \"",
                                         "{\"",
                                         "\"}",
                                         "}}",
                                         "},",
                                         "[{",
                                         "]}",
                                         "[]",
                                         "{}",
                                         " {",
                                         "\n",
                                         "\n  ",
                                         "\n\n",
                                         "name",
                                         "\"name\"",
                                         "\"name\": \"",
                                         "na",
                                         "true",
                                         "tr",
                                         "null",
                                         "12",
                                         "123",
                                         "0.",
                                         ".5",
                                         "e+",
                                         "-1",
                                         "1,",
                                         "], [",
                                         "a",
                                         "ab",
                                         "abc",
                                         "hello world",
                                         "\xC3",
                                         "\xA9",
                                         "\xC3\xA9",
                                         "x\xC3",
                                         "\xA9y",
                                         "\xF0\x9F",
                                         "\x98\x80",
                                         "\xF0\x9F\x98\x80",
                                         "\\",
                                         "\\u",
                                         "\\n",
                                         "\\\"",
                                         "\\u00",
                                         "00e9",
                                         "d83d",
                                         "a\"b",
                                         "a\",\"b",
                                         "it's so",
                                         "seventeen letters",
                                         "seventeen letters\"",
                                         "seventeen letters and more\",",
                                         "]",
                                         "}",
                                         " ",
                                         "  ",
                                         "\xE2\x82",
                                         "red",
                                         "green",
                                         "\"red",
                                         "re",
                                         "ed\"",
                                         "2024",
                                         "-02",
                                         "-29\"",
                                         "@",
                                         ".org\"",
                                         "</think>",
                                         "</th",
                                         "ink>",
                                         "ink>{",
                                         "k>\n\n",
                                         "k>\n\n\n"};
    vocabulary_start(v);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        if (strlen(pieces[i]) > 1)
            vocabulary_add(v, pieces[i]);
    fixture_add(&v->f, "hello w", TOKEN_USER, 0);
    vocabulary_finish(v);
}

static bool is_end(const vocabulary *v, int32_t id) {
    return tokenizer_is_end(v->t, id);
}

/* The mask of G is exactly what a copy of G accepts. */
static void check_mask(const vocabulary *v, guide *g) {
    const uint32_t *mask = guide_mask(g);
    nib_error err = {""};
    if (!mask) {
        (void)guide_failure(g, &err);
        fail_msg("%s", err.text);
    }
    for (int32_t id = 0; (size_t)id < tokenizer_vocab(v->t); id++) {
        guide *copy;
        assert_int_equal(guide_clone(&copy, g, &err), NIB_OK);
        const bool accepted = guide_accept(copy, id);
        guide_close(copy);
        if (accepted != mask_has(mask, id))
            fail_msg("token %d \"%.*s\": accepted %d, in the mask %d", (int)id,
                     (int)tokenizer_piece(v->t, id, true).n, tokenizer_piece(v->t, id, true).p, accepted,
                     mask_has(mask, id));
    }
}

static int32_t any_token(const vocabulary *v, const uint32_t *mask, bool hurry) {
    static const char closing[] = "\"}]1";
    for (int i = 0; hurry && i < 8; i++) {
        const int32_t id = closing[random_below(4)];
        if (mask_has(mask, id))
            return id;
    }
    for (int tries = 0; tries < 100000; tries++) {
        const int32_t id = (int32_t)random_below((uint32_t)tokenizer_vocab(v->t));
        if (mask_has(mask, id) && (!is_end(v, id) || hurry))
            return id;
    }
    for (int32_t id = 0; (size_t)id < tokenizer_vocab(v->t); id++)
        if (mask_has(mask, id))
            return id;
    fail_msg("the mask is empty");
    return -1;
}

static const char *const shapes[][2] = {
    {"1", "{}"},
    {"1",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"}}}"},
    {"1",
     "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":20},\"maxItems\":3}"},
    {"1",
     "{\"type\":\"object\",\"properties\":{\"name\":{\"enum\":[\"red\",\"green\"]}},\"required\":[\"name\"],"
     "\"additionalProperties\":{\"type\":\"string\",\"pattern\":\"^[a-z]*$\"}}"},
    {"1", "{\"type\":\"string\",\"format\":\"date\"}"},
    {"2", "[a-h]{0,30}\xC3\xA9?(?: world)*"},
    {"4", "root ::= item (\",\" item)*\nitem ::= \"a\" | \"ab\" | \"abc\" [^\\n\"]{0,18} \"\\\"\""},
};

static void test_masks_are_what_is_accepted(void **state) {
    (void)state;
    vocabulary v;
    many_tokens(&v);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int marked = 0; marked < 2; marked++) {
            guide_plan *plan =
                plan_of(&v, (guide_kind)(shapes[i][0][0] - '0'), shapes[i][1], marked ? "</think>" : "");
            for (int walk = 0; walk < 3; walk++) {
                guide *g = guide_of(plan);
                for (int step = 0; step < 25 && !guide_finished(g); step++) {
                    check_mask(&v, g);
                    assert_true(guide_accept(g, any_token(&v, guide_mask(g), step > 15)));
                }
                guide_close(g);
            }
            guide_plan_release(plan);
        }
    vocabulary_close(&v);
}

static void test_ends(void **state) {
    (void)state;
    vocabulary v;
    many_tokens(&v);
    guide_plan *plan = plan_of(&v, GUIDE_REGEX, "ab?", "");
    guide *g = guide_of(plan);
    assert_false(guide_can_end(g));
    assert_false(guide_accept(g, VOCABULARY_END));
    assert_false(guide_accept(g, -1));
    assert_false(guide_accept(g, 100000));
    assert_false(guide_accept(g, 256)); /* <|im_start|>: a control token is no text */
    assert_true(guide_accept(g, 'a'));
    assert_true(guide_can_end(g) && !guide_finished(g));
    for (int32_t id = 256; id < 265; id++) /* all tokens that end, and no other control token */
        assert_int_equal(mask_has(guide_mask(g), id), is_end(&v, id));
    assert_true(guide_accept(g, 'b'));
    assert_true(guide_finished(g));
    assert_true(guide_accept(g, VOCABULARY_END));
    assert_true(guide_finished(g));
    for (size_t i = 0; i < v.words->n_words; i++)
        assert_int_equal(guide_mask(g)[i], 0);
    assert_false(guide_accept(g, VOCABULARY_END));
    assert_true(guide_rollback(g, 1));
    assert_true(mask_has(guide_mask(g), VOCABULARY_END));
    guide_close(g);
    guide_plan_release(plan);
    vocabulary_close(&v);
}

/* Takes TEXT by the longest tokens. */
static void feed(const vocabulary *v, guide *g, const char *text) {
    for (size_t left = strlen(text); left > 0;) {
        size_t n = left;
        int32_t id = -1;
        for (; n > 0 && id < 0; n--) {
            char spelling[256];
            size_t bytes = 0;
            for (size_t i = 0; i < n && bytes < 250; i++)
                bytes += utf8_encode(tokenizer_byte_letter((unsigned char)text[i]), spelling + bytes);
            id = tokenizer_find(v->t, (strview){spelling, bytes});
        }
        if (!guide_accept(g, id))
            fail_msg("not accepted: %s", text);
        text += n + 1;
        left -= n + 1;
    }
}

static void test_marker(void **state) {
    (void)state;
    vocabulary v;
    many_tokens(&v);
    guide_plan *plan = plan_of(&v, GUIDE_JSON_OBJECT, "", "</think>");
    guide *g = guide_of(plan);
    assert_true(mask_has(guide_mask(g), 'x') && mask_has(guide_mask(g), 256) &&
                !mask_has(guide_mask(g), VOCABULARY_END));
    feed(&v, g, "so {\"a\" </th </</thin");
    const int32_t too_far = tokenizer_find(v.t, strview_of("k>\xC4\x8A\xC4\x8A\xC4\x8A"));
    assert_true(too_far > 0 && !guide_accept(g, too_far));
    assert_true(guide_accept(g, 'k') && guide_accept(g, '>'));
    assert_false(mask_has(guide_mask(g), 'x') || mask_has(guide_mask(g), 256));
    assert_true(mask_has(guide_mask(g), '\n') && mask_has(guide_mask(g), '{'));
    feed(&v, g, "\n\n{}");
    assert_true(guide_finished(g));
    guide_close(g);
    g = guide_of(plan);
    feed(&v, g,
         "\xF0\x9F</</think>{\"a\":1"); /* a token may hold the marker's end and the shape's beginning */
    assert_false(guide_finished(g));
    assert_true(guide_accept(g, 256) == false);
    guide_close(g);
    guide_plan_release(plan);
    vocabulary_close(&v);
}

/* Reasoning that need not come. */
static void test_optional_preamble(void **state) {
    (void)state;
    vocabulary v;
    many_tokens(&v);
    const guide_preamble before = {strview_of("<think>"), strview_of("</think>")};
    guide_plan *plan;
    nib_error err = {""};
    assert_int_equal(guide_plan_open(&plan, GUIDE_JSON_OBJECT, strview_of(""), before, v.words, v.t, &err),
                     NIB_OK);
    guide *g = guide_of(plan);
    assert_true(mask_has(guide_mask(g), '{') && mask_has(guide_mask(g), '<') &&
                !mask_has(guide_mask(g), 'x'));
    assert_false(mask_has(guide_mask(g), 256));
    feed(&v, g, "{}");
    assert_true(guide_finished(g));
    guide_close(g);
    g = guide_of(plan);
    feed(&v, g, "<think>");
    assert_true(mask_has(guide_mask(g), 'x') && mask_has(guide_mask(g), 256) && !guide_can_end(g));
    feed(&v, g, "{ hm <think> </think>\n{}");
    assert_true(guide_finished(g));
    guide_close(g);
    guide_plan_release(plan);
    vocabulary_close(&v);
}

/* Reasoning whose marks are control tokens: the shape begins behind them, whatever came before. */
static void test_preamble_of_control_tokens(void **state) {
    static const char *const marks[] = {"<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|return|>"};
    enum { CHANNEL, MESSAGE, END, START, RETURN, N_MARKS };
    static const int32_t plain = 'x';
    int32_t ids[N_MARKS];
    (void)state;
    vocabulary v;
    vocabulary_start(&v);
    for (size_t i = 0; i < N_MARKS; i++)
        ids[i] = fixture_add(&v.f, marks[i], TOKEN_CONTROL, 0);
    vocabulary_finish(&v);
    guide_plan *plan = plan_of(&v, GUIDE_JSON_OBJECT, "", "<|channel|>final<|message|>");
    for (int reasoned = 0; reasoned < 2; reasoned++) {
        guide *g = guide_of(plan);
        if (reasoned) {
            assert_true(guide_accept(g, ids[CHANNEL]));
            feed(&v, g, "analysis");
            assert_true(guide_accept(g, ids[MESSAGE]) && guide_accept(g, plain) &&
                        guide_accept(g, ids[END]) && guide_accept(g, ids[START]));
            feed(&v, g, "assistant");
        }
        assert_true(mask_has(guide_mask(g), plain) && !guide_can_end(g));
        assert_true(guide_accept(g, ids[CHANNEL]));
        feed(&v, g, "final");
        check_mask(&v, g);
        assert_true(guide_accept(g, ids[MESSAGE]));
        check_mask(&v, g);
        assert_false(mask_has(guide_mask(g), plain) || mask_has(guide_mask(g), ids[END]));
        feed(&v, g, "{}");
        assert_true(guide_finished(g));
        guide_close(g);
    }
    guide_plan_release(plan);
    vocabulary_close(&v);
}

static void test_rollback_and_clone(void **state) {
    (void)state;
    vocabulary v;
    many_tokens(&v);
    guide_plan *plan =
        plan_of(&v, GUIDE_JSON_SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "");
    guide *g = guide_of(plan), *copy;
    nib_error err = {""};
    feed(&v, g, "[1");
    assert_int_equal(guide_clone(&copy, g, &err), NIB_OK);
    feed(&v, g, ", 23]");
    assert_true(guide_finished(g) && !guide_finished(copy));
    feed(&v, copy, "]");
    assert_true(guide_finished(copy));
    assert_true(guide_rollback(g, 2));
    assert_false(guide_finished(g));
    feed(&v, g, "4]");
    assert_true(guide_finished(g));
    assert_false(guide_rollback(g, 100));
    assert_true(guide_rollback(copy, 1));
    assert_true(guide_rollback(copy, 0));
    feed(&v, copy, "0]");
    guide_close(g);
    guide_plan_release(plan); /* the guide keeps what it needs */
    check_mask(&v, copy);
    guide_close(copy);
    vocabulary_close(&v);
}

/* A vocabulary that lacks bytes: no token may end inside a character that none could finish. */
static void test_characters_can_be_finished(void **state) {
    (void)state;
    static fixture f;
    fixture_start(&f, "llama", "default");
    fixture_add(&f, "<0xC3>", TOKEN_BYTE, 0);
    fixture_add(&f, "<0xA9>", TOKEN_BYTE, 0);
    fixture_add(&f, "x", TOKEN_NORMAL, 0);
    fixture_add(&f, "<0xE2>", TOKEN_BYTE, 0);
    fixture_add(&f, "<|im_end|>", TOKEN_CONTROL, 0);
    f.source.unk = fixture_add(&f, "<unk>", TOKEN_UNKNOWN, 0);
    tokenizer *t = fixture_open(&f.source);
    vocabulary v = {.t = t};
    nib_error err = {""};
    assert_int_equal(trie_open(&v.words, t, 40, &err), NIB_OK);
    guide_plan *plan =
        plan_of(&v, GUIDE_REGEX, "[\xC3\xA9\xE2\x82\xAC]x?", ""); /* e acute; the euro lacks 82, AC */
    guide *g = guide_of(plan);
    const uint32_t *mask = guide_mask(g);
    assert_true(mask_has(mask, 0) && !mask_has(mask, 3) && !mask_has(mask, 2));
    uint32_t bits[3] = {7, 7, 7};
    assert_int_equal(guide_fill(g, bits, 1, &err), NIB_OK);
    assert_true(bits[0] == mask[0] && bits[1] == 7);
    assert_int_equal(guide_fill(g, bits, 3, &err), NIB_OK);
    assert_true(memcmp(bits, mask, 8) == 0 && bits[2] == 0);
    assert_int_equal(mask[1], 0); /* logits past the vocabulary */
    assert_true(guide_accept(g, 0) && guide_accept(g, 1));
    assert_true(mask_has(guide_mask(g), 2) && mask_has(guide_mask(g), 4));
    guide_close(g);
    guide_plan_release(plan);
    plan = plan_of(&v, GUIDE_REGEX, "\xE2\x82\xAC", "");
    g = guide_of(plan);
    assert_null(guide_mask(g));
    assert_int_equal(guide_failure(g, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no token"));
    guide_close(g);
    guide_plan_release(plan);
    trie *too_small;
    assert_int_equal(trie_open(&too_small, t, 3, &err), NIB_BAD_ARGUMENT);
    assert_null(too_small);
    trie_release(v.words);
    tokenizer_close(t);
}

/* Counted repeats inside repeats: every answer makes new states until the cache is renewed, which guides do
 * not notice. */
static void test_caches_are_renewed(void **state) {
    (void)state;
    vocabulary v;
    vocabulary_start(&v);
    vocabulary_finish(&v);
    guide_plan *plan =
        plan_of(&v, GUIDE_GBNF, "root ::= (x{1,300} \";\"){1,30000}\nx ::= \"(\" [a-z]{0,300} \")\"", "");
    guide *early = guide_of(plan), *g = guide_of(plan);
    feed(&v, early, "(abc)(");
    for (int i = 0; i < 600000; i++) {
        const char c = i % 60 == 59 ? ';' : "(abcd)"[i % 6];
        if (!guide_accept(g, c) && !(guide_accept(g, ')') && guide_accept(g, c)))
            fail_msg("step %d", i);
    }
    assert_true(guide_rollback(g, 200));
    assert_false(guide_rollback(g, 500000));
    feed(&v, early, "d);(e);");
    assert_true(guide_can_end(early));
    check_mask(&v, early);
    guide_close(early);
    guide_close(g);
    guide_plan_release(plan);
    vocabulary_close(&v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks_are_what_is_accepted),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_marker),
        cmocka_unit_test(test_optional_preamble),
        cmocka_unit_test(test_preamble_of_control_tokens),
        cmocka_unit_test(test_rollback_and_clone),
        cmocka_unit_test(test_characters_can_be_finished),
        cmocka_unit_test(test_caches_are_renewed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
