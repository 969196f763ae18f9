/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizers over small vocabularies: ids of every kind of source, decoding, hostile sources refused in
 * words, long runs in bounded time, failing allocations. The real vocabularies are tested by
 * tests/e2e/test_tokenizers.py.
 */
#include "text_fixture.h"

#define FFFD_TEXT "\xEF\xBF\xBD"

/* ---- ids ---- */

static void byte_pairs_from_gguf(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "smollm");
    tokenizer *t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "hello", 0), "269");
    assert_string_equal(fixture_ids(t, " hello", 0), "32 269"); /* no piece joins them */
    assert_string_equal(fixture_ids(t, "12", 0), "49 50");
    assert_string_equal(fixture_ids(t, "<|im_end|>he", 0), "257 266");
    assert_string_equal(fixture_ids(t, "<|im_end|>", TOKENIZE_NO_SPECIAL),
                        "60 124 105 109 95 101 110 100 124 62");
    assert_string_equal(fixture_ids(t, "<user>", TOKENIZE_NO_SPECIAL), "265"); /* not a control token */
    assert_string_equal(fixture_ids(t, "\xFF", 0), "239 191 189");             /* U+FFFD */
    assert_string_equal(fixture_ids(t, "", 0), "");
    assert_int_equal(tokenizer_vocab(t), 270);
    assert_int_equal(tokenizer_bos(t), 258);
    assert_false(tokenizer_adds_bos(t));
    assert_true(tokenizer_is_control(t, 256));
    assert_false(tokenizer_is_control(t, 265));
    assert_false(tokenizer_is_control(t, -1));
    assert_false(tokenizer_is_control(t, 1 << 20));
    assert_true(tokenizer_is_end(t, 257)); /* by its name */
    assert_false(tokenizer_is_end(t, 256));
    assert_int_equal(tokenizer_find(t, strview_of("hello")), 269);
    assert_int_equal(tokenizer_find(t, strview_of("hallo")), -1);
    assert_int_equal(tokenizer_piece(t, 256, false).n, 0);
    assert_int_equal(tokenizer_piece(t, 256, true).n, 12);
    assert_int_equal(tokenizer_piece(t, -5, true).n, 0);
    assert_int_equal(tokenizer_piece(t, 270, true).n, 0);
    tokenizer_close(t);
}

static void llama_bpe_takes_whole_words(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "llama-bpe");
    fixture_add(&f, "xyz", 1, 0); /* 270: no merge leads there */
    tokenizer *t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "xyz", 0), "270");
    assert_string_equal(fixture_ids(t, "xyza", 0), "120 121 122 97");
    assert_true(tokenizer_adds_bos(t));
    tokenizer_close(t);
    fixture_bytes(&f, "qwen2");
    fixture_add(&f, "xyz", 1, 0);
    t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "xyz", 0), "120 121 122");
    tokenizer_close(t);
}

/* By their text, whatever type the file gives them. */
static void ends_have_any_type(void **state) {
    (void)state;
    fixture f;
    for (int32_t type = 1; type <= 5; type++) {
        fixture_bytes(&f, "qwen2");
        f.types[256] = f.types[257] = type;
        f.types[259] = 1; /* </s>, here a tag of HTML */
        tokenizer *t = fixture_open(&f.source);
        assert_string_equal(fixture_ids(t, "<|im_start|>he<|im_end|>", 0), "256 266 257");
        assert_true(tokenizer_is_end(t, 257));
        assert_int_equal(tokenizer_piece(t, 257, false).n, 0); /* it is not shown */
        assert_false(tokenizer_is_end(t, 259));
        tokenizer_close(t);
    }
}

static void pre_tokenizers_by_name(void **state) {
    (void)state;
    fixture f;
    static const char *const llama3[] = {"llama-bpe", "falcon3", "pixtral", "lfm2"};
    for (size_t i = 0; i < sizeof llama3 / sizeof *llama3; i++) {
        fixture_bytes(&f, llama3[i]);
        tokenizer *t = fixture_open(&f.source);
        assert_true(tokenizer_adds_bos(t));
        assert_true(t->ignore_merges);
        assert_string_equal(fixture_ids(t, "hello", 0), "269");
        tokenizer_close(t);
    }
    fixture_bytes(&f, "qwen2"); /* contractions are ASCII to llama.cpp: no cut behind the long s (C5 BF) */
    fixture_add(&f, "\u00bfa", 1, 0);
    fixture_merge(&f, "\u00bf a");
    tokenizer *t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "'\u017fa", 0), "39 197 270");
    tokenizer_close(t);
    fixture_bytes(&f, ""); /* a file that does not say is llama.cpp's default */
    t = fixture_open(&f.source);
    assert_int_equal(t->splitter.n_steps, 4);
    tokenizer_close(t);
    fixture_bytes(&f, "afmoe");
    fixture_refused(&f.source, NIB_UNSUPPORTED,
                    "tokenizer.ggml.pre is \"afmoe\", expected one that nibble knows: llama-bpe, ");
}

static void scores_from_gguf(void **state) {
    (void)state;
    fixture f;
    fixture_scores(&f);
    f.source.add_space_prefix = 0;
    tokenizer *t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, " ab", 0), "264");
    assert_string_equal(fixture_ids(t, "aaab", 0),
                        "263 262"); /* the best score first, the leftmost of equals */
    assert_string_equal(fixture_ids(t, "aaaaa", 0), "265 260");
    assert_string_equal(fixture_ids(t, "\n\n\n", 0), "266 13");
    assert_string_equal(fixture_ids(t, "a\u00e9", 0), "260 198 172"); /* bytes of what has no piece */
    assert_string_equal(fixture_ids(t, "a\xFF", 0), "260 258");
    assert_string_equal(fixture_ids(t, "</s><tag>", 0), "2 267");
    assert_string_equal(fixture_ids(t, "<tag>", TOKENIZE_NO_SPECIAL), "267");
    assert_true(tokenizer_adds_bos(t)); /* llama.cpp's default */
    assert_int_equal(tokenizer_bos(t), 1);
    tokenizer_close(t);

    f.source.add_space_prefix = -1; /* a prefix unless the file says no */
    f.source.add_bos = 0;
    t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "ab", 0), "264");
    assert_string_equal(fixture_ids(t, "</s>ab", 0), "2 264");
    assert_false(tokenizer_adds_bos(t));
    token_list list = fixture_encode_n(t, "ab a\u00e9", 6, 0);
    char *text = fixture_decode(t, &list, false);
    assert_string_equal(text, "ab a\u00e9"); /* the prefix goes when decoding */
    free(text);
    token_list_free(&list);
    tokenizer_close(t);
}

static void check_seed(const char *name, const char *text, const char *ids, unsigned flags) {
    char path[128];
    snprintf(path, sizeof path, "fuzz/text/corpus_tokenizer_json/%s", name);
    mapfile m = fixture_file(path);
    const token_source source = fixture_json(&m);
    tokenizer *t = fixture_open(&source);
    const char *found = fixture_ids(t, text, flags);
    if (strcmp(found, ids) != 0)
        fail_msg("%s: \"%s\" gave %s, expected %s", name, text, found, ids);
    tokenizer_close(t);
    mapfile_close(&m);
}

static void tokenizer_json_of_every_kind(void **state) {
    (void)state;
    /* 256 he, 257 ll, 258 hell, 259 hello, 260 " h", 261 e acute, 262 "12", 263 <|im_start|>, 264 <|im_end|>
     * (rstrip), 265 <think> (lstrip), hello is an added token that is looked for after normalization */
    check_seed("smollm2", "12 he hi", "49 50 32 256 260 105", 0);
    check_seed("qwen3", "e\u0301", "261", 0); /* NFC */
    check_seed("smollm2", "e\u0301", "101 204 129", 0);
    check_seed("llama3", "12", "262", 0);
    check_seed("qwen3", "12", "49 50", 0);
    check_seed("qwen3", "<|im_start|>a<|im_end|> \n b", "263 97 264 98", 0);
    check_seed("qwen3", "a <think>b", "97 265 98", TOKENIZE_NO_SPECIAL);
    check_seed("qwen3", "xhellox", "120 259 120", 0);
    check_seed("qwen3", "a\xE2\x82 b", "97 239 191 189 32 98", 0);
    check_seed("pattern", "Ab12", "65 98 262", 0);
    check_seed("gemma", " hel  lo", "271 273 272", 0);
    check_seed("gemma", "z\u00e9", "125 198 172", 0);
    check_seed("llama2", "hel", "271", 0); /* Prepend */
    check_seed("unknowns", "zzhz", "0 4 0", 0);
}

static void bos_of_tokenizer_json(void **state) {
    (void)state;
    mapfile m = fixture_file("fuzz/text/corpus_tokenizer_json/llama2");
    const token_source source = fixture_json(&m);
    tokenizer *t = fixture_open(&source);
    assert_true(tokenizer_adds_bos(t)); /* its TemplateProcessing */
    assert_int_equal(tokenizer_bos(t), 1);
    assert_true(tokenizer_is_end(t, 2));
    tokenizer_close(t);
    mapfile_close(&m);
}

/* ---- decoding ---- */

static void decoding_never_breaks_a_character(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "smollm");
    tokenizer *t = fixture_open(&f.source);
    static const char text[] = "a\u00e9\u20ac\U0001F600z";
    detokenizer d = {0};
    char all[64];
    size_t n = 0;
    for (size_t i = 0; i < sizeof text - 1; i++) { /* id = byte */
        char out[DETOKENIZER_ROOM(1)];
        const size_t wrote = detokenizer_push(t, &d, (unsigned char)text[i], false, out);
        assert_int_equal(utf8_valid_prefix(out, wrote), wrote);
        memcpy(all + n, out, wrote);
        n += wrote;
    }
    assert_int_equal(detokenizer_flush(&d, all + n), 0);
    assert_int_equal(n, sizeof text - 1);
    assert_memory_equal(all, text, n);

    static const struct {
        const char *bytes, *text;
    } broken[] = {{"\xE2\x82", FFFD_TEXT},
                  {"\xE2\x82z", FFFD_TEXT "z"},
                  {"\x80\x80", FFFD_TEXT FFFD_TEXT},
                  {"\xF0\x9F\x98\xF0\x9F\x98\x80", FFFD_TEXT "\U0001F600"},
                  {"\xED\xA0\x80", FFFD_TEXT FFFD_TEXT FFFD_TEXT}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        token_list list = {0};
        for (const char *p = broken[i].bytes; *p; p++)
            assert_int_equal(token_list_push(&list, (unsigned char)*p, NULL), NIB_OK);
        char *out = fixture_decode(t, &list, false);
        assert_string_equal(out, broken[i].text);
        free(out);
        token_list_free(&list);
    }
    tokenizer_close(t);
}

static void decoding_gives_the_text_back(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "qwen2");
    tokenizer *t = fixture_open(&f.source);
    static const char text[] = "<|im_start|>user\nhello  hello\u00e9\r\n<|im_end|>\u4e2d\u6587 \U0001F600";
    token_list list = fixture_encode_n(t, text, sizeof text - 1, 0);
    char *out = fixture_decode(t, &list, true);
    assert_string_equal(out, text);
    free(out);
    out = fixture_decode(t, &list, false);
    assert_string_equal(out, "user\nhello  hello\u00e9\r\n\u4e2d\u6587 \U0001F600");
    free(out);
    token_list_free(&list);
    tokenizer_close(t);
}

/* ---- time ---- */

static void check_run(const tokenizer *t, const char *unit, const char *name) {
    const size_t n = 1000000, bytes = strlen(unit);
    char *text = malloc(n + 8);
    for (size_t i = 0; i < n; i += bytes)
        memcpy(text + i, unit, bytes);
    const double start = cpu_seconds();
    token_list list = fixture_encode_n(t, text, n, 0);
    const double seconds = cpu_seconds() - start;
    assert_true(list.n > 0);
    if (seconds > 5) /* a tenth of that on an idle machine; quadratic would be hours */
        fail_msg("a megabyte of %s took %.1f s", name, seconds);
    token_list_free(&list);
    free(text);
}

static void long_runs_are_quick(void **state) {
    (void)state;
    static const char *const units[] = {"a", " ", "\n", "ab", "1", "\u0301", "l", "<|im_end|", "'"};
    fixture f;
    fixture_bytes(&f, "qwen2");
    tokenizer *bytes = fixture_open(&f.source);
    fixture_scores(&f);
    tokenizer *scores = fixture_open(&f.source);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        check_run(bytes, units[i], units[i]);
        check_run(scores, units[i], units[i]);
    }
    tokenizer_close(bytes);
    tokenizer_close(scores);
}

/* A text around the size where the table of words begins has the same ids as its parts. */
static void the_word_table_changes_nothing(void **state) {
    (void)state;
    fixture f;
    fixture_scores(&f);
    f.source.add_space_prefix = 0;
    tokenizer *t = fixture_open(&f.source);
    static const char part[] = "ab aab\n\nabab<tag>aaaa b\u00e9 ab";
    token_list once = fixture_encode_n(t, part, sizeof part - 1, 0);
    char text[64 * (sizeof part + 1)];
    size_t n = 0;
    for (int i = 0; i < 64; i++)
        n += (size_t)sprintf(text + n, "%s\n", part);
    token_list many = fixture_encode_n(t, text, n, 0);
    assert_int_equal(many.n, 64 * (once.n + 1));
    for (size_t i = 0; i < many.n; i++)
        assert_int_equal(many.ids[i], i % (once.n + 1) < once.n ? once.ids[i % (once.n + 1)] : 13);
    token_list_free(&once);
    token_list_free(&many);
    tokenizer_close(t);
}

/* ---- hostile sources ---- */

static void bad_gguf_is_refused(void **state) {
    (void)state;
    fixture f;
    fixture_start(&f, "gpt2", "smollm");
    fixture_refused(&f.source, NIB_UNSUPPORTED, "holds no tokenizer");
    fixture_bytes(&f, "deepseek-llm\x1b[31m");
    fixture_refused(&f.source, NIB_UNSUPPORTED, "tokenizer.ggml.pre is \"deepseek-llm?[31m\"");
    fixture_bytes(&f, "smollm");
    f.source.model = strview_of("bert");
    fixture_refused(&f.source, NIB_UNSUPPORTED, "tokenizer.ggml.model is \"bert\"");
    fixture_bytes(&f, "smollm");
    f.source.n_merges = 0;
    f.source.merges = NULL;
    fixture_refused(&f.source, NIB_BAD_FILE, "has no tokenizer.ggml.merges");
    fixture_bytes(&f, "smollm");
    fixture_merge(&f, "h q");
    fixture_refused(&f.source, NIB_BAD_FILE, "merge 4 joins \"h\" and \"q\"");
    fixture_bytes(&f, "smollm");
    fixture_merge(&f, "nospace");
    fixture_refused(&f.source, NIB_BAD_FILE, "merges entry 4 is \"nospace\"");
    fixture_bytes(&f, "smollm");
    fixture_add(&f, "hello", 1, 0);
    fixture_refused(&f.source, NIB_BAD_FILE, "pieces 269 and 270 of the vocabulary are spelled alike");
    fixture_bytes(&f, "smollm");
    f.types[3] = 77;
    fixture_refused(&f.source, NIB_BAD_FILE, "token_type of piece 3 is 77");
    int32_t *const ids[] = {&f.source.bos, &f.source.eos, &f.source.eot, &f.source.unk, &f.source.pad};
    static const char *const names[] = {"bos", "eos", "eot", "unknown", "padding"};
    for (size_t i = 0; i < 5; i++) {
        char words[64];
        fixture_bytes(&f, "smollm");
        *ids[i] = i % 2 ? -7 : 270;
        snprintf(words, sizeof words, "tokenizer.ggml.%s_token_id is %d", names[i], i % 2 ? -7 : 270);
        fixture_refused(&f.source, NIB_BAD_FILE, words);
    }
    fixture_bytes(&f, "smollm");
    f.source.extra_eos[0] = 9999;
    f.source.n_extra_eos = 1;
    fixture_refused(&f.source, NIB_BAD_FILE, "eos_token_id is 9999");
    fixture_bytes(&f, "smollm");
    f.source.vocab = 100;
    fixture_refused(&f.source, NIB_BAD_FILE, "270 pieces, expected at most the 100 rows");
    static char long_piece[70000];
    memset(long_piece, 'x', sizeof long_piece - 1);
    fixture_bytes(&f, "smollm");
    fixture_add(&f, long_piece, 1, 0);
    fixture_refused(&f.source, NIB_BAD_FILE, "69999 bytes");
    fixture_bytes(&f, "smollm");
    f.tokens[fixture_add(&f, "x", 3, 0)] = (strview){long_piece, 300};
    fixture_refused(&f.source, NIB_BAD_FILE, "control token 270 has 300 bytes");
}

static void bad_scores_are_refused(void **state) {
    (void)state;
    fixture f;
    fixture_scores(&f);
    f.source.scores = NULL;
    fixture_refused(&f.source, NIB_BAD_FILE, "has no tokenizer.ggml.scores");
    fixture_scores(&f);
    f.scores[5] = (float)(0.0 / (double)(f.scores[5] * 0));
    fixture_refused(&f.source, NIB_BAD_FILE, "scores of piece 5 is not a number");
    static const char *const malformed[] = {"<0x-1>", "<0xG0>", "<0x1>", "0x11", "<0x 1>", "<0x011>"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        fixture_scores(&f);
        f.tokens[4] = strview_of(malformed[i]);
        fixture_refused(&f.source, NIB_BAD_FILE, "piece 4 is a byte spelled");
    }
    fixture_scores(&f);
    f.types[0] = 1;
    f.tokens[3] = strview_of("zero");
    f.types[3] = 1;
    fixture_refused(&f.source, NIB_BAD_FILE, "neither a piece <0x00> nor an unknown token");
}

/* Empty pieces stand in real files (padding): they are never found, and decode to nothing. */
static void odd_gguf_is_handled(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "smollm");
    const int32_t empty = fixture_add(&f, "", 1, 0);
    fixture_add(&f, "", 3, 0);
    fixture_add(&f, "\xFF\xFE", 1, 0); /* a piece that is no UTF-8 */
    fixture_add(&f, "\u4e2d", 1, 0);   /* outside the alphabet of bytes */
    fixture_merge(&f, "h e");          /* the first of two equal merges counts */
    f.source.types = NULL;             /* all normal */
    tokenizer *t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "hello\u4e2d", 0), "269 228 184 173");
    assert_int_equal(tokenizer_piece(t, empty, true).n, 0);
    assert_false(tokenizer_is_control(t, 256));
    tokenizer_close(t);
    fixture_bytes(&f, "smollm");
    f.tokens['l'] = strview_of("\u0410"); /* a byte without a piece: dropped, and it parts its neighbours */
    f.source.n_merges = 1;
    t = fixture_open(&f.source);
    assert_string_equal(fixture_ids(t, "hlehe", 0), "104 101 266");
    tokenizer_close(t);
}

static void check_bad_json(const char *json, nib_status status, const char *words) {
    token_source s = {.where = "tokenizer.json", .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1};
    s.json = strview_of(json);
    fixture_refused(&s, status, words);
}

#define MODEL(more)                                                                                          \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}" more "}"

static void bad_json_is_refused(void **state) {
    (void)state;
    check_bad_json("{", NIB_BAD_FILE, "not valid JSON");
    check_bad_json("[]", NIB_BAD_FILE, "has no model");
    check_bad_json("{\"model\":7}", NIB_BAD_FILE, "has no model");
    check_bad_json("{\"model\":{\"type\":\"BPE\"}}", NIB_BAD_FILE, "model.vocab is missing");
    check_bad_json("{\"model\":{\"type\":\"Unigram\",\"vocab\":{\"a\":0}}}", NIB_UNSUPPORTED,
                   "model.type \"Unigram\"");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", NIB_BAD_FILE,
                   "model.merges is missing");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", NIB_BAD_FILE,
                   "merge 0 joins \"a\" and \"b\"");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", NIB_BAD_FILE,
                   "model.merges, entry 0: expected a pair of pieces");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", NIB_BAD_FILE,
                   "expected an id, a number from 0 up");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":16000000},\"merges\":[]}}", NIB_BAD_FILE,
                   "the highest id is 16000000");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1e99},\"merges\":[]}}", NIB_BAD_FILE,
                   "expected an id");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", NIB_BAD_FILE,
                   "two pieces of the vocabulary have the id 0");
    check_bad_json("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", NIB_BAD_FILE,
                   "pieces 0 and 1 of the vocabulary are spelled alike");
    check_bad_json(MODEL(",\"normalizer\":{\"type\":\"Lowercase\"}"), NIB_UNSUPPORTED,
                   "normalizer \"Lowercase\"");
    check_bad_json(MODEL(",\"pre_tokenizer\":{\"type\":\"Metaspace\"}"), NIB_UNSUPPORTED,
                   "pre_tokenizer Metaspace with the replacement");
    check_bad_json(MODEL(",\"pre_tokenizer\":{\"type\":\"Whitespace\"}"), NIB_UNSUPPORTED,
                   "pre_tokenizer \"Whitespace\"");
    check_bad_json(MODEL(",\"post_processor\":{\"type\":\"BertProcessing\"}"), NIB_UNSUPPORTED,
                   "post_processor \"BertProcessing\"");
    check_bad_json(MODEL(",\"added_tokens\":[{\"id\":3,\"content\":\"\"}]"), NIB_BAD_FILE,
                   "content has 0 bytes");
    check_bad_json(MODEL(",\"added_tokens\":[{\"content\":\"x\"}]"), NIB_BAD_FILE,
                   "added_tokens[0] has no id");
    check_bad_json(MODEL(",\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]"), NIB_BAD_FILE,
                   "expected 0 as in model.vocab");
    check_bad_json(MODEL(",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), NIB_BAD_FILE, "have the id 1");
    check_bad_json(MODEL(",\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"single_word\":true}]"),
                   NIB_UNSUPPORTED, "single_word");
    check_bad_json(
        MODEL(",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
              "{\"Regex\":\"(\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}"),
        NIB_UNSUPPORTED, "Oniguruma cannot read");
}

#define LISTS(vocab, merges) "{\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}}"

/* The vocabulary and the merges are read in place: as strictly as all other JSON. */
static void bad_lists_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {{LISTS("{\"a\":0,}", "[]"), "model.vocab, entry 1: expected a string"},
                 {LISTS("{\"a\":0 \"b\":1}", "[]"), "model.vocab, entry 1: expected a comma"},
                 {LISTS("{\"a\" 0}", "[]"), "expected a colon"},
                 {LISTS("{\"a\":01}", "[]"), "expected an id"},
                 {LISTS("{\"a\":0.5}", "[]"), "expected an id"},
                 {LISTS("{\"a\":1234567890}", "[]"), "expected an id"},
                 {LISTS("{\"a\":\"0\"}", "[]"), "expected an id"},
                 {LISTS("{\"a\\x\":0}", "[]"), "sound escapes"},
                 {LISTS("{\"\\ud800\":0}", "[]"), "sound escapes"},
                 {LISTS("{\"\\ud800\\u0041\":0}", "[]"), "sound escapes"},
                 {LISTS("{\"\\u0000\":0}", "[]"), "sound escapes"},
                 {LISTS("{\"\\u12g4\":0}", "[]"), "sound escapes"},
                 {LISTS("{\"a\nb\":0}", "[]"), "without control characters"},
                 {LISTS("{\"\xFF\":0}", "[]"), "a string in UTF-8"},
                 {LISTS("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\",\"b\"],\"a b\"]"), "in the form of the first"},
                 {LISTS("{\"a\":0,\"b\":1,\"ab\":2}", "[[\"a\",\"b\",\"c\"]]"), "a pair of pieces"},
                 {LISTS("{\"a\":0,\"b\":1,\"ab\":2}", "[\"ab\"]"), "a pair of pieces"},
                 {LISTS("{\"a\":0,\"b\":1,\"ab\":2}", "[7]"), "a string"},
                 {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"vocab\":{\"b\":0},\"merges\":[]}}",
                  "not valid JSON"},
                 {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0", "not valid JSON"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_bad_json(cases[i].json, NIB_BAD_FILE, cases[i].words);
}

static void escapes_of_lists_are_undone(void **state) {
    (void)state;
    token_source s = {.where = "tokenizer.json", .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1};
    s.json = strview_of(
        LISTS(" { \"\\u00e9\" : 0 , \"\\ud83d\\ude00\":1,\"\\\"\":2,\"\\u00e9\\\"\":3,\"\\t\":4 } ",
              "[ [ \"\\u00e9\" , \"\\\"\" ] ]"));
    tokenizer *t = fixture_open(&s);
    assert_string_equal(fixture_ids(t, "\u00e9\"\U0001F600\t", 0), "3 1 4");
    tokenizer_close(t);
}

static void depth_bombs_are_refused(void **state) {
    (void)state;
    const size_t n = 1000000;
    char *bomb = malloc(n + 1);
    memset(bomb, '[', n);
    bomb[n] = '\0';
    check_bad_json(bomb, NIB_BAD_FILE, "not valid JSON");
    /* nested as deep as JSON may be, in a field that is read recursively */
    static const char open[] = "{\"type\":\"Sequence\",\"normalizers\":[";
    size_t used = (size_t)sprintf(bomb, "{\"normalizer\":");
    for (int i = 0; i < 900; i++)
        used += (size_t)sprintf(bomb + used, "%s", open);
    for (int i = 0; i < 900; i++)
        used += (size_t)sprintf(bomb + used, "]}");
    sprintf(bomb + used, ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}");
    check_bad_json(bomb, NIB_UNSUPPORTED, "normalizer \"Sequence\"");
    free(bomb);
}

/* ---- failing allocations ---- */

static nib_status open_and_encode(const token_source *source) {
    tokenizer *t;
    nib_error err = {""};
    nib_status status = tokenizer_open(&t, source, &err);
    if (status != NIB_OK)
        return status;
    token_list list = {0};
    char text[700];
    memset(text, 'a', sizeof text);
    memcpy(text, "hello <|im_end|>\xFF e\u0301", 20);
    status = tokenizer_encode(t, text, sizeof text, 0, &list, &err);
    if (status != NIB_OK)
        assert_int_equal(list.n, 0);
    token_list_free(&list);
    tokenizer_close(t);
    return status;
}

static void failing_allocations_are_survived(void **state) {
    (void)state;
    fixture f;
    fixture_bytes(&f, "qwen2");
    mapfile m = fixture_file("fuzz/text/corpus_tokenizer_json/qwen3");
    const token_source sources[] = {f.source, fixture_json(&m)};
    for (size_t i = 0; i < 2; i++) {
        nib_status status = NIB_NO_MEMORY;
        for (long n = 0; status == NIB_NO_MEMORY; n += 1 + n / 20) {
            mem_fail_after(n);
            status = open_and_encode(&sources[i]);
            mem_fail_after(-1);
        }
        assert_int_equal(status, NIB_OK);
    }
    mapfile_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_pairs_from_gguf),
        cmocka_unit_test(llama_bpe_takes_whole_words),
        cmocka_unit_test(ends_have_any_type),
        cmocka_unit_test(pre_tokenizers_by_name),
        cmocka_unit_test(scores_from_gguf),
        cmocka_unit_test(tokenizer_json_of_every_kind),
        cmocka_unit_test(bos_of_tokenizer_json),
        cmocka_unit_test(decoding_never_breaks_a_character),
        cmocka_unit_test(decoding_gives_the_text_back),
        cmocka_unit_test(long_runs_are_quick),
        cmocka_unit_test(the_word_table_changes_nothing),
        cmocka_unit_test(bad_gguf_is_refused),
        cmocka_unit_test(bad_scores_are_refused),
        cmocka_unit_test(odd_gguf_is_handled),
        cmocka_unit_test(bad_json_is_refused),
        cmocka_unit_test(bad_lists_are_refused),
        cmocka_unit_test(escapes_of_lists_are_undone),
        cmocka_unit_test(depth_bombs_are_refused),
        cmocka_unit_test(failing_allocations_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
