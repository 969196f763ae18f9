/* SPDX-License-Identifier: Apache-2.0
 *
 * What the text room's tests share: a small byte-pair vocabulary as GGUF gives it, files of the tests, and
 * texts of ids.
 */
#ifndef TEXT_FIXTURE_H
#define TEXT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/chat.h"
#include "text/tokenizer_parts.h"

/* CPU time: the machine may be busy with other things. */
static inline double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#define FIXTURE_MAX 700

/* A vocabulary under construction; the source points into it. */
typedef struct fixture {
    strview tokens[FIXTURE_MAX], merges[FIXTURE_MAX];
    int32_t types[FIXTURE_MAX];
    float scores[FIXTURE_MAX];
    char letters[256][8];
    token_source source;
} fixture;

static inline int32_t fixture_add(fixture *f, const char *spelling, int32_t type, float score) {
    const size_t i = f->source.n_tokens++;
    assert_true(i < FIXTURE_MAX);
    f->tokens[i] = strview_of(spelling);
    f->types[i] = type;
    f->scores[i] = score;
    return (int32_t)i;
}

static inline void fixture_merge(fixture *f, const char *merge) {
    f->merges[f->source.n_merges++] = strview_of(merge);
}

static inline void fixture_start(fixture *f, const char *model, const char *pre) {
    memset(f, 0, sizeof *f);
    f->source = token_source_unset("test.gguf");
    f->source.model = strview_of(model);
    f->source.pre = strview_of(pre);
    f->source.tokens = f->tokens;
    f->source.types = f->types;
    f->source.scores = f->scores;
    f->source.merges = f->merges;
}

/* GPT-2's 256 letters as ids 0 to 255 (id = byte), then the control tokens that templates name. */
static inline void fixture_bytes(fixture *f, const char *pre) {
    static const char *const control[] = {
        "<|im_start|>",        "<|im_end|>",        "<bos>",     "</s>", "<start_of_turn>", "<end_of_turn>",
        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
    fixture_start(f, "gpt2", pre);
    for (int byte = 0; byte < 256; byte++) {
        f->letters[byte][utf8_encode(tokenizer_byte_letter((unsigned char)byte), f->letters[byte])] = '\0';
        fixture_add(f, f->letters[byte], 1, 0);
    }
    for (size_t i = 0; i < sizeof control / sizeof *control; i++)
        fixture_add(f, control[i], 3, 0);
    f->source.bos = 258;
    fixture_add(f, "<user>", 4, 0);
    fixture_add(f, "he", 1, 0);
    fixture_add(f, "ll", 1, 0);
    fixture_add(f, "hell", 1, 0);
    fixture_add(f, "hello", 1, 0);
    fixture_merge(f, "h e");
    fixture_merge(f, "l l");
    fixture_merge(f, "he ll");
    fixture_merge(f, "hell o");
}

/* SentencePiece: <unk> 0, <s> 1, </s> 2, byte pieces 3 to 258, then a few pieces. */
static inline void fixture_scores(fixture *f) {
    static char bytes[256][8];
    fixture_start(f, "llama", "default");
    fixture_add(f, "<unk>", 2, 0);
    fixture_add(f, "<s>", 3, 0);
    fixture_add(f, "</s>", 3, 0);
    for (int byte = 0; byte < 256; byte++) {
        snprintf(bytes[byte], sizeof bytes[byte], "<0x%02X>", byte);
        fixture_add(f, bytes[byte], 6, 0);
    }
    fixture_add(f, "\u2581", 1, -9);       /* 259 */
    fixture_add(f, "a", 1, -9);            /* 260 */
    fixture_add(f, "b", 1, -9);            /* 261 */
    fixture_add(f, "ab", 1, -3);           /* 262 */
    fixture_add(f, "aa", 1, -2);           /* 263 */
    fixture_add(f, "\u2581ab", 1, -4);     /* 264 */
    fixture_add(f, "aaaa", 1, -1);         /* 265 */
    fixture_add(f, "\n\n", 4, 0);          /* 266 */
    fixture_add(f, "<tag>", 4, 0);         /* 267 */
    fixture_add(f, "\u2581\u2581", 1, -5); /* 268 */
}

static inline tokenizer *fixture_open(const token_source *source) {
    tokenizer *t;
    nib_error err = {""};
    const nib_status status = tokenizer_open(&t, source, &err);
    if (status != NIB_OK)
        fail_msg("%s", err.text);
    return t;
}

static inline token_list fixture_encode_n(const tokenizer *t, const char *text, size_t n, unsigned flags) {
    token_list list = {0};
    nib_error err = {""};
    if (tokenizer_encode(t, text, n, flags, &list, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return list;
}

/* "1 2 3" */
static inline const char *fixture_ids(const tokenizer *t, const char *text, unsigned flags) {
    static char out[4096];
    token_list list = fixture_encode_n(t, text, strlen(text), flags);
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < list.n; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, i ? " %d" : "%d", (int)list.ids[i]);
    token_list_free(&list);
    return out;
}

/* Freed with free. */
static inline char *fixture_decode(const tokenizer *t, const token_list *list, bool with_control) {
    size_t room = DETOKENIZER_ROOM(0) + 1;
    for (size_t i = 0; i < list->n; i++)
        room += DETOKENIZER_ROOM(tokenizer_piece(t, list->ids[i], with_control).n);
    char *out = malloc(room);
    size_t n = 0;
    detokenizer d = {0};
    for (size_t i = 0; i < list->n; i++)
        n += detokenizer_push(t, &d, list->ids[i], with_control, out + n);
    n += detokenizer_flush(&d, out + n);
    out[n] = '\0';
    return out;
}

static inline void fixture_refused(const token_source *source, nib_status expected, const char *words) {
    tokenizer *t;
    nib_error err = {""};
    const double start = cpu_seconds();
    assert_int_equal(tokenizer_open(&t, source, &err), expected);
    assert_null(t);
    assert_non_null(strstr(err.text, source->where));
    if (!strstr(err.text, words))
        fail_msg("\"%s\" is not in \"%s\"", words, err.text);
    assert_true(cpu_seconds() - start < 2);
}

/* A file under tests/; closed with mapfile_close. */
static inline mapfile fixture_file(const char *name) {
    char path[1024];
    nib_error err = {""};
    mapfile m = {0};
    snprintf(path, sizeof path, "%s/%s", TESTS_DIR, name);
    if (mapfile_open(&m, path, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return m;
}

/* tokenizer.json (and tokenizer_config.json after a zero byte) of a fuzz seed. */
static inline token_source fixture_json(const mapfile *m) {
    token_source s = token_source_unset("tokenizer.json");
    const char *bytes = (const char *)m->bytes, *zero = memchr(bytes, 0, m->size);
    s.json = (strview){bytes, zero ? (size_t)(zero - bytes) : m->size};
    if (zero)
        s.config_json = (strview){zero + 1, m->size - s.json.n - 1};
    return s;
}

#endif
