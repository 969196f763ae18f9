/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts under a tokenizer: UTF-8, normalization, character classes, the pre-tokenizers' patterns (against
 * Oniguruma on the same regular expressions), merging, added tokens.
 */
#include "nouns/pretokenizer.h"
#include "text/normalize.h"
#include "text/split_pattern.h"
#include "text_fixture.h"

/* ---- UTF-8 ---- */

static void check_normalized(nib_status (*normalize)(text_buffer *, const char *, size_t, nib_error *),
                             const char *text, const char *expected) {
    text_buffer out = {0};
    assert_int_equal(normalize(&out, text, strlen(text), NULL), NIB_OK);
    assert_int_equal(out.n, strlen(expected));
    assert_memory_equal(out.bytes ? out.bytes : "", expected, out.n);
    text_buffer_free(&out);
}

#define FFFD "\xEF\xBF\xBD"

static void repair_follows_python(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"plain", "plain"},
                                           {"a\x80z", "a" FFFD "z"},
                                           {"\xC0\x80", FFFD FFFD},
                                           {"\xE2\x96", FFFD},
                                           {"\xE2\x96 ", FFFD " "},
                                           {"\xE2\x28\xA1", FFFD "(" FFFD},
                                           {"\xED\xA0\x80", FFFD FFFD FFFD},
                                           {"\xF0\x9F\x98", FFFD},
                                           {"\xF0\x9F\x98\xC3\xA9", FFFD "\xC3\xA9"},
                                           {"\xF0\x80\x80\x80", FFFD FFFD FFFD FFFD},
                                           {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD},
                                           {"\xF8\x88", FFFD FFFD},
                                           {"\xE2\x82\xAC\xFF", "\xE2\x82\xAC" FFFD}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_normalized(normalize_repair, cases[i][0], cases[i][1]);
}

static void lenient_repair_follows_llama_cpp(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a\x80z", "a" FFFD "z"},         {"\xC1\x81", "A"}, /* overlong forms become short */
        {"\xED\xA0\x80", "\xED\xA0\x80"}, {"\xE2\x96", FFFD FFFD}, {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xF8\x88", FFFD FFFD}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_normalized(normalize_repair_lenient, cases[i][0], cases[i][1]);
}

/* ---- normal form C ---- */

static void nfc_composes_and_orders(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"e\u0301", "\u00e9"},
        {"cafe\u0301s", "caf\u00e9s"},
        {"\u212b", "\u00c5"},
        {"a\u0301\u0323", "\u1ea1\u0301"}, /* ordered by class before composing */
        {"q\u0301\u0323z", "q\u0323\u0301z"},
        {"\u1112\u1161\u11ab", "\ud55c"}, /* Hangul */
        {"\u0958", "\u0915\u093c"},       /* excluded from composition */
        {"a\u0300\u0301b\u0301", "\u00e0\u0301b\u0301"},
        {"\U00011935\U00011930", "\U00011935\U00011930"}, /* composes in Unicode 13; not in tokenizers */
        {"a\u1df6\u0323", "a\u1df6\u0323"}};              /* a mark of Unicode 10: does not move */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_normalized(normalize_nfc, cases[i][0], cases[i][1]);
}

static void nfc_is_linear_on_marks(void **state) {
    (void)state;
    const size_t n = 500000;
    char *text = malloc(2 * n);
    for (size_t i = 0; i < n; i++)
        memcpy(text + 2 * i, i % 2 ? "\u0301" : "\u0323", 2);
    text_buffer out = {0};
    const double start = cpu_seconds();
    assert_int_equal(normalize_nfc(&out, text, 2 * n, NULL), NIB_OK);
    assert_true(cpu_seconds() - start < 5); /* quadratic: minutes */
    assert_int_equal(out.n, 2 * n);
    assert_memory_equal(out.bytes + 2 * n - 2, "\u0301", 2);
    assert_memory_equal(out.bytes, "\u0323", 2);
    text_buffer_free(&out);
    free(text);
}

/* ---- classes and patterns ---- */

static void classes_differ_by_source(void **state) {
    (void)state;
    char_classes old, new, digits;
    assert_int_equal(char_classes_open(&old, CLASSES_LLAMA_CPP, NULL), NIB_OK);
    assert_int_equal(char_classes_open(&new, CLASSES_TOKENIZERS, NULL), NIB_OK);
    assert_int_equal(char_classes_open(&digits, CLASSES_DIGITS, NULL), NIB_OK);
    static const struct {
        uint32_t code;
        char_class old, new, digits;
    } cases[] = {{'a', CHAR_LETTER, CHAR_LETTER, CHAR_LETTER},
                 {'7', CHAR_NUMBER, CHAR_NUMBER, CHAR_NUMBER},
                 {' ', CHAR_SPACE, CHAR_SPACE, CHAR_SPACE},
                 {'_', CHAR_OTHER, CHAR_OTHER, CHAR_OTHER},
                 {0x301, CHAR_OTHER, CHAR_OTHER, CHAR_OTHER},
                 {0x85, CHAR_SPACE, CHAR_SPACE, CHAR_SPACE},
                 {0x180E, CHAR_OTHER, CHAR_OTHER, CHAR_OTHER}, /* no space any more */
                 {0x4E00, CHAR_LETTER, CHAR_LETTER, CHAR_LETTER},
                 {0xBD, CHAR_NUMBER, CHAR_NUMBER, CHAR_NUMBER},
                 {0x2EBF0, CHAR_LETTER, CHAR_LETTER, CHAR_LETTER}, /* Unicode 15.1 */
                 {0x105C0, CHAR_OTHER, CHAR_LETTER, CHAR_LETTER},  /* Unicode 16 */
                 {0x16D70, CHAR_OTHER, CHAR_NUMBER, CHAR_NUMBER},
                 {0x11DE0, CHAR_OTHER, CHAR_OTHER, CHAR_NUMBER}, /* Unicode 17 */
                 {0x10FFFF, CHAR_OTHER, CHAR_OTHER, CHAR_OTHER}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(char_class_of(&old, cases[i].code), cases[i].old);
        assert_int_equal(char_class_of(&new, cases[i].code), cases[i].new);
        assert_int_equal(char_class_of(&digits, cases[i].code), cases[i].digits);
    }
    char_classes_close(&old);
    char_classes_close(&new);
    char_classes_close(&digits);
}

static nib_status note_word(void *context, const char *word, size_t n, nib_error *err) {
    text_buffer *out = context;
    NIB_TRY(text_buffer_append(out, word, n, err));
    return text_buffer_append(out, "|", 1, err);
}

static void check_split(const splitter *s, const char *text, const char *expected) {
    text_buffer out = {0};
    uint64_t work = SPLIT_PATTERN_WORK(strlen(text));
    assert_int_equal(splitter_run(s, text, strlen(text), note_word, &out, &work, NULL), NIB_OK);
    assert_int_equal(text_buffer_append(&out, "", 1, NULL), NIB_OK);
    assert_string_equal(out.bytes, expected);
    text_buffer_free(&out);
}

static splitter open_splitter(split_step step) {
    splitter s = {0};
    assert_int_equal(char_classes_open(&s.classes, CLASSES_TOKENIZERS, NULL), NIB_OK);
    s.has_classes = true;
    assert_int_equal(splitter_add(&s, step, "test", NULL), NIB_OK);
    return s;
}

static nib_status add_pattern(splitter *s, const char *pattern, nib_error *err) {
    return splitter_add_pattern(s, (split_step){0}, strview_of(pattern), CLASSES_TOKENIZERS, "test", err);
}

static void patterns_cut_words(void **state) {
    (void)state;
    splitter gpt2 = open_splitter((split_step){.kind = SPLIT_GPT2});
    check_split(&gpt2, "Hello, world's 123  x", "Hello|,| world|'s| 123| | x|");
    check_split(&gpt2, "I'LL   \n a", "I|'|LL|   \n| a|");
    check_split(&gpt2, "tail  ", "tail|  |");
    splitter_close(&gpt2);
    splitter qwen2 = open_splitter((split_step){.kind = SPLIT_WORDS, .max_digits = 1, .fold_long_s = true});
    check_split(&qwen2, "I'LL it'\u017f 123 \n\n x\r\n", "I|'LL| it|'\u017f| |1|2|3| \n\n| x|\r\n|");
    check_split(&qwen2, "a  b!!\n\n(c)", "a| | b|!!\n\n|(c|)|");
    check_split(&qwen2, "\tx  ", "\tx|  |");
    splitter_close(&qwen2);
    splitter llama3 = open_splitter((split_step){.kind = SPLIT_WORDS, .max_digits = 3});
    check_split(&llama3, "12345 it'\u017f", "123|45| it|'\u017f|");
    splitter_close(&llama3);
    splitter smollm = open_splitter((split_step){.kind = SPLIT_EACH_NUMBER});
    assert_int_equal(splitter_add(&smollm, (split_step){.kind = SPLIT_GPT2}, "test", NULL), NIB_OK);
    check_split(&smollm, "a  12 b3", "a|  |1|2| b|3|");
    splitter_close(&smollm);
}

/* The same pattern by Oniguruma, on characters whose class no version of Unicode disputes. */
static void patterns_equal_oniguruma(void **state) {
    (void)state;
    static const char *const alphabet[] = {
        "a",      "S",      "t",      "l",      "e",          "v",      "'", "'", "1", "9",
        " ",      " ",      " ",      "\n",     "\r",         "\t",     "!", "_", "(", "\u00e9",
        "\u4e2d", "\u00a0", "\u00bd", "\u0301", "\U0001F600", "\u3000", "m", "d", "r"};
    static const struct {
        split_step step;
        const char *pattern;
    } kinds[] = {
        {{.kind = SPLIT_GPT2},
         "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+(?=.|\\s)"},
        {{.kind = SPLIT_WORDS, .max_digits = 1, .fold_long_s = true},
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+(?=.|\\s)"},
        {{.kind = SPLIT_WORDS, .max_digits = 3, .fold_long_s = true},
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+(?=.|\\s)"}};
    uint32_t seed = 7;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        splitter ours = open_splitter(kinds[k].step);
        splitter theirs = {0};
        assert_int_equal(add_pattern(&theirs, kinds[k].pattern, NULL), NIB_OK);
        assert_int_equal(theirs.steps[0].kind, SPLIT_PATTERN); /* the tail makes it an unknown one */
        for (int round = 0; round < 3000; round++) {
            char text[256] = "";
            for (int i = 0; i < 3 + round % 30; i++) {
                seed = seed * 1664525u + 1013904223u;
                strcat(text, alphabet[(seed >> 16) % (sizeof alphabet / sizeof *alphabet)]);
            }
            text_buffer expected = {0};
            uint64_t work = SPLIT_PATTERN_WORK(strlen(text));
            assert_int_equal(splitter_run(&theirs, text, strlen(text), note_word, &expected, &work, NULL),
                             NIB_OK);
            assert_int_equal(text_buffer_append(&expected, "", 1, NULL), NIB_OK);
            check_split(&ours, text, expected.bytes);
            text_buffer_free(&expected);
        }
        splitter_close(&ours);
        splitter_close(&theirs);
    }
}

static nib_status note_length(void *context, const char *word, size_t n, nib_error *err) {
    (void)word;
    char number[24];
    return text_buffer_append(context, number, (size_t)snprintf(number, sizeof number, " %zu", n), err);
}

/* NAME, a text in hexadecimal, the lengths of the pieces that llama.cpp cuts it into. */
static void check_golden_split(char *line) {
    char *hex = strchr(line, ' '), *lengths = strchr(hex + 1, ' '), text[256];
    *hex++ = '\0';
    const pretokenizer *pre = pretokenizer_find(strview_of(line));
    splitter s = {0};
    size_t n = 0;
    unsigned byte;
    if (!pre)
        fail_msg("%s is no name of a pre-tokenizer", line);
    for (; n < sizeof text && hex + 2 * n < lengths && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        text[n] = (char)byte;
    assert_int_equal(char_classes_open(&s.classes, CLASSES_LLAMA_CPP, NULL), NIB_OK);
    s.has_classes = true;
    for (size_t i = 0; i < PRETOKENIZER_MAX_STEPS && pre->steps[i]; i++)
        assert_int_equal(splitter_add_pattern(&s, (split_step){0}, strview_of(pre->steps[i]),
                                              CLASSES_LLAMA_CPP, "test", NULL),
                         NIB_OK);
    text_buffer out = {0};
    uint64_t work = SPLIT_PATTERN_WORK(n);
    assert_int_equal(splitter_run(&s, text, n, note_length, &out, &work, NULL), NIB_OK);
    assert_int_equal(text_buffer_append(&out, "", 1, NULL), NIB_OK);
    if (strcmp(out.bytes, lengths) != 0)
        fail_msg("%s cuts %.*s into%s, expected%s", line, (int)(lengths - hex), hex, out.bytes, lengths);
    text_buffer_free(&out);
    splitter_close(&s);
}

static void names_cut_as_llama_cpp(void **state) {
    (void)state;
    FILE *f = fopen(TESTS_DIR "/golden/text/splits.txt", "r");
    assert_non_null(f);
    static char line[4096];
    int n = 0;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#')
            continue;
        check_golden_split(line);
        n++;
    }
    fclose(f);
    assert_true(n > 300);
}

/* Tries nowhere long enough for a limit of one match, everywhere long: an error, soon, whatever the length.
 */
static void check_hostile(const char *pattern, char letter, size_t n) {
    splitter s = {0};
    assert_int_equal(add_pattern(&s, pattern, NULL), NIB_OK);
    char *text = malloc(n);
    memset(text, letter, n);
    text_buffer out = {0};
    nib_error err = {""};
    uint64_t work = SPLIT_PATTERN_WORK(n);
    const double start = cpu_seconds();
    assert_int_equal(splitter_run(&s, text, n, note_word, &out, &work, &err), NIB_BAD_FILE);
    assert_true(cpu_seconds() - start < 10);
    assert_non_null(strstr(err.text, "Split pattern takes too long"));
    text_buffer_free(&out);
    free(text);
    splitter_close(&s);
}

static void hostile_pattern_is_bounded(void **state) {
    (void)state;
    check_hostile("(a+)+(a+)+[bc]", 'a', 4000);
    check_hostile("(?:.?|.){17}\\x01|.", 'a', 100000);      /* one byte a match */
    check_hostile("(?:.?|.){17}[\\x01\\x02]", 'a', 100000); /* no match at all */
    splitter s = {0};                                       /* one long word takes no more than its share */
    assert_int_equal(add_pattern(&s, "(?:[a-z]|[0-9])+|\\s+(?!\\S)|\\s", NULL), NIB_OK);
    static char text[10001];
    memset(text, 'a', 5000);
    memset(text + 5000, ' ', 5000);
    char expected[10004];
    snprintf(expected, sizeof expected, "%.5000s|%.5000s|", text, text + 5000);
    check_split(&s, text, expected);
    splitter_close(&s);
    nib_error err = {""};
    splitter none = {0};
    assert_int_equal(add_pattern(&none, "a(", &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "Oniguruma cannot read"));
}

/* ---- merging ---- */

/* Plain reading of the rule: the lowest rank, the leftmost of equals, until none is left. */
static size_t merge_slowly(const merge_rules *rules, int32_t *ids, size_t n) {
    for (;;) {
        size_t best = n;
        uint32_t best_rank = UINT32_MAX;
        int32_t best_id = -1;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k <= rules->slot_mask; k++) {
                const merge_slot *s = &rules->slots[k];
                if (s->id >= 0 && s->left == (uint32_t)ids[i] && s->right == (uint32_t)ids[i + 1] &&
                    s->rank < best_rank) {
                    best = i;
                    best_rank = s->rank;
                    best_id = s->id;
                }
            }
        if (best == n)
            return n;
        ids[best] = best_id;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

/* Short words are scanned and long ones use a heap: both must take the pairs in the rule's order. */
static void merging_follows_the_rule(void **state) {
    (void)state;
    merge_rules rules;
    assert_int_equal(merge_rules_open_pairs(&rules, 12, NULL), NIB_OK);
    static const int32_t pairs[][3] = {{0, 1, 3}, {1, 0, 4}, {0, 0, 5},  {3, 3, 6},  {5, 5, 7},
                                       {1, 1, 8}, {4, 0, 9}, {2, 3, 10}, {7, 7, 11}, {8, 5, 12}};
    for (size_t i = 0; i < 10; i++)
        merge_rules_add_pair(&rules, pairs[i][0], pairs[i][1], (uint32_t)(i * 7 % 10), pairs[i][2], false);
    uint32_t seed = 3;
    for (int round = 0; round < 2000; round++) {
        const size_t n = 1 + (size_t)round % 90;
        int32_t ids[90];
        merge_work work = {0};
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            ids[i] = (int32_t)((seed >> 20) % 3);
            assert_int_equal(merge_work_push(&work, ids[i], (uint32_t)i, 1, NULL), NIB_OK);
        }
        assert_int_equal(merge_symbols(&work, &rules, NULL, NULL, NULL), NIB_OK);
        const size_t left = merge_slowly(&rules, ids, n);
        size_t k = 0;
        for (int32_t i = 0; i >= 0; i = work.symbols[i].next) {
            assert_true(k < left);
            assert_int_equal(work.symbols[i].id, ids[k++]);
        }
        assert_int_equal(k, left);
        merge_work_free(&work);
    }
    merge_rules_close(&rules);
}

/* ---- added tokens ---- */

static void check_found(const added_set *s, bool longest, const char *text, bool skip, const char *expected) {
    added_matches m = {0};
    char out[256] = "";
    size_t n = 0;
    assert_int_equal(
        longest ? added_find_longest(s, text, strlen(text), (added_rule){.skip_special = skip}, &m, NULL)
                : added_find_leftmost(s, text, strlen(text), (added_rule){.skip_special = skip}, &m, NULL),
        NIB_OK);
    for (size_t i = 0; i < m.n; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%d@%zu-%zu ", (int)m.list[i].id, m.list[i].start,
                              m.list[i].end);
    assert_string_equal(out, expected);
    added_matches_free(&m);
}

static void added_tokens_are_found(void **state) {
    (void)state;
    added_set s;
    added_open(&s);
    static const struct {
        const char *text;
        added_token token;
    } tokens[] = {{"ab", {.id = 1}},
                  {"abc", {.id = 2, .special = true}},
                  {"bcde", {.id = 3}},
                  {"\n", {.id = 4}},
                  {"\n\n", {.id = 5}},
                  {"<L>", {.id = 6, .lstrip = true}},
                  {"<R>", {.id = 7, .rstrip = true}}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        assert_int_equal(added_add(&s, tokens[i].token, strview_of(tokens[i].text), NULL), NIB_OK);
    check_found(&s, false, "xabcde", false, "2@1-4 "); /* leftmost, longest there */
    check_found(&s, true, "xabcde", false, "3@2-6 ");  /* the longest anywhere */
    check_found(&s, false, "xabcde", true, "");        /* a skipped control token hides what it covers */
    check_found(&s, true, "xabc", true, "1@1-3 ");     /* llama.cpp never looks for it */
    check_found(&s, false, "\n\n\n", false, "5@0-2 4@2-3 ");
    check_found(&s, true, "\n\n\n", false, "5@0-2 4@2-3 ");
    check_found(&s, true, "abababc", false, "1@0-2 1@2-4 2@4-7 ");
    check_found(&s, false, "a \t<L> b", false, "6@1-6 ");
    check_found(&s, false, "a <R> \u3000 b", false, "7@2-10 ");
    check_found(&s, true, "", false, "");
    added_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repair_follows_python),      cmocka_unit_test(lenient_repair_follows_llama_cpp),
        cmocka_unit_test(nfc_composes_and_orders),    cmocka_unit_test(nfc_is_linear_on_marks),
        cmocka_unit_test(classes_differ_by_source),   cmocka_unit_test(patterns_cut_words),
        cmocka_unit_test(patterns_equal_oniguruma),   cmocka_unit_test(names_cut_as_llama_cpp),
        cmocka_unit_test(hostile_pattern_is_bounded), cmocka_unit_test(merging_follows_the_rule),
        cmocka_unit_test(added_tokens_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
