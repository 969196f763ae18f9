/* SPDX-License-Identifier: Apache-2.0
 *
 * Structured output, without a model. SHAPES is a JSON list of {"name": ..., "kind": "schema", "schema":
 * {...}, "docs": [text, ...], "bad": [text, ...]}; other kinds (object, regex, choice, gbnf) have a "text".
 * Of kind "call" the "schema" is what calls are asked for with (call_shape.h); walks then have the calls that
 * are read out of them, too.
 *
 *   bench_structured speed SHAPES MODEL        CPU time to compile, and of each mask along the docs
 *   bench_structured walk SHAPES MODEL N SEED  N random answers, over the shapes in turn
 *   bench_structured check SHAPES              which docs and bad ones a shape allows, byte by byte
 *
 * Speed: all caches are cold when a shape begins, the docs are MODEL's own tokens and come a second time.
 * Walk and check print one JSON object a line.
 *
 *   ninja -C build/release bench_structured
 *   build/release/bench_structured speed tests/golden/text/shapes.json models/SmolLM2-135M-Instruct.Q4_1.gguf
 *
 * MODEL is a GGUF file, a model directory, or a directory with a tokenizer.json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "store/model_file.h"
#include "text/chat_parts.h"
#include "text/chat_reader.h"
#include "text/guide.h"
#include "text/normalize.h"
#include "text/tokenizer_parts.h"

#define MAX_STEPS 6000

typedef struct words {
    model_file *file;
    tokenizer *t;
    trie *trie;
} words;

/* Of this thread: the machine may be busy with other things. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const nib_error *err) {
    fprintf(stderr, "bench_structured: %s\n", err->text);
    exit(1);
}

static words open_words(const char *path) {
    words w = {0};
    nib_error err = {""};
    if (model_file_open_words(&w.file, path, &err) != NIB_OK ||
        tokenizer_open(&w.t, &w.file->words, &err) != NIB_OK)
        die(&err);
    const double from = cpu_seconds();
    if (trie_open(&w.trie, w.t, 0, &err) != NIB_OK)
        die(&err);
    fprintf(stderr, "%s: %zu tokens; trie: %.1f ms, %zu plain and %zu other nodes\n", path,
            tokenizer_vocab(w.t), (cpu_seconds() - from) * 1e3, w.trie->plain.n, w.trie->other.n);
    return w;
}

static void close_words(words *w) {
    trie_release(w->trie);
    tokenizer_close(w->t);
    model_file_close(w->file);
}

static json_t *read_shapes(const char *path) {
    mapfile file;
    json_t *shapes = NULL;
    nib_error err = {""};
    if (mapfile_open(&file, path, &err) != NIB_OK ||
        json_read(&shapes, file.bytes, file.size, path, &err) != NIB_OK)
        die(&err);
    mapfile_close(&file);
    return shapes;
}

static guide_kind kind_of(const json_t *shape) {
    static const char *const names[] = {"object", "schema", "regex", "choice", "gbnf", "call"};
    const char *kind = json_string_value(json_object_get(shape, "kind"));
    for (int i = 0; kind && i < 6; i++)
        if (strcmp(kind, names[i]) == 0)
            return (guide_kind)i;
    fprintf(stderr, "bench_structured: a shape of no known kind\n");
    exit(1);
}

/* A plan of the shape, timed; NULL when it was refused. */
static guide_plan *open_plan(const words *w, const json_t *shape, double *took, nib_error *err) {
    json_t *schema = json_object_get(shape, "schema");
    char *dumped = schema ? json_dumps(schema, JSON_ENCODE_ANY) : NULL;
    const char *text = dumped ? dumped : json_string_value(json_object_get(shape, "text"));
    guide_plan *plan;
    const double from = cpu_seconds();
    (void)guide_plan_open(&plan, kind_of(shape), strview_of(text ? text : ""),
                          (guide_preamble){.end = {NULL, 0}}, w->trie, w->t, err);
    *took = cpu_seconds() - from;
    free(dumped);
    return plan;
}

static void print_line(json_t *object) {
    char *text = json_dumps(object, JSON_COMPACT);
    puts(text ? text : "{\"error\": \"the answer is no UTF-8\"}");
    free(text);
    json_decref(object);
}

/* ---- speed ---- */

typedef struct timing {
    double compile, mask, worst; /* of masks: cold, when a plan meets its states for the first time */
    double again;                /* the same masks a second time */
    size_t n;
} timing;

/* Masks along one document. */
static void time_document(const words *w, guide_plan *plan, const char *doc, bool warm, timing *t) {
    guide *g;
    nib_error err = {""};
    token_list ids = {0};
    if (guide_open(&g, plan, &err) != NIB_OK ||
        tokenizer_encode(w->t, doc, strlen(doc), TOKENIZE_NO_SPECIAL, &ids, &err) != NIB_OK)
        die(&err);
    for (size_t i = 0; i <= ids.n; i++) {
        const double from = cpu_seconds();
        const uint32_t *mask = guide_mask(g);
        const double took = cpu_seconds() - from;
        if (warm) {
            t->again += took;
        } else {
            t->mask += took;
            t->worst = took > t->worst ? took : t->worst;
            t->n++;
        }
        if (!mask || (i < ids.n && !guide_accept(g, ids.ids[i]))) {
            (void)guide_failure(g, &err);
            fprintf(stderr, "bench_structured: token %zu of %s is not allowed %s\n", i, doc, err.text);
            exit(1);
        }
    }
    guide_close(g);
    token_list_free(&ids);
}

static int speed(const words *w, json_t *shapes) {
    timing all = {0};
    size_t i, k;
    json_t *shape, *doc;
    printf("%-28s %10s %8s %10s %10s %10s\n", "shape", "compile ms", "masks", "mean us", "worst us",
           "again us");
    json_array_foreach(shapes, i, shape) {
        timing t = {.compile = 1e9};
        guide_plan *plan = NULL;
        nib_error err = {""};
        for (int repeat = 0; repeat < 5; repeat++) { /* the best */
            double took;
            guide_plan_release(plan);
            plan = open_plan(w, shape, &took, &err);
            if (!plan)
                die(&err);
            t.compile = took < t.compile ? took : t.compile;
        }
        json_array_foreach(json_object_get(shape, "docs"), k, doc) {
            time_document(w, plan, json_string_value(doc), false, &t);
        }
        json_array_foreach(json_object_get(shape, "docs"), k, doc) {
            time_document(w, plan, json_string_value(doc), true, &t);
        }
        guide_plan_release(plan);
        printf("%-28s %10.2f %8zu %10.1f %10.1f %10.1f\n", json_string_value(json_object_get(shape, "name")),
               t.compile * 1e3, t.n, t.mask / (double)(t.n ? t.n : 1) * 1e6, t.worst * 1e6,
               t.again / (double)(t.n ? t.n : 1) * 1e6);
        all.compile = t.compile > all.compile ? t.compile : all.compile;
        all.worst = t.worst > all.worst ? t.worst : all.worst;
        all.mask += t.mask;
        all.again += t.again;
        all.n += t.n;
    }
    const double n = (double)(all.n ? all.n : 1);
    printf(
        "all: compile worst %.2f ms; %zu masks, mean %.1f us, worst %.1f us; the second time mean %.1f us\n",
        all.compile * 1e3, all.n, all.mask / n * 1e6, all.worst * 1e6, all.again / n * 1e6);
    return 0;
}

/* ---- random answers ---- */

static uint64_t random_state;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) * n >> 31);
}

static bool allows(const uint32_t *mask, int32_t id) {
    return id >= 0 && (mask[id >> 5] >> (id & 31) & 1);
}

/* Any of the tokens that MASK allows, all alike. */
static int32_t any_token(const words *w, const uint32_t *mask) {
    size_t n = 0;
    for (size_t i = 0; i < w->trie->n_words; i++)
        n += (size_t)__builtin_popcount(mask[i]);
    size_t pick = n ? random_below((uint32_t)n) : 0;
    for (size_t i = 0; n && i < w->trie->n_words; i++) {
        const size_t here = (size_t)__builtin_popcount(mask[i]);
        if (pick >= here) {
            pick -= here;
            continue;
        }
        for (int bit = 0; bit < 32; bit++)
            if (mask[i] >> bit & 1 && pick-- == 0)
                return (int32_t)(32 * i) + bit;
    }
    return -1;
}

static const chat_format *format_of(const json_t *shape) {
    const char *name = json_string_value(json_object_get(json_object_get(shape, "schema"), "format"));
    for (const chat_format *f = chat_formats; name && f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

/* What ends a text in a call of FORMAT that has no quotes. */
static const char *closing_of(const chat_format *f) {
    if (f && f->shape == CHAT_HARMONY)
        return "<|end|><|start|>assistant";
    return !f ? NULL : f->quote ? f->quote : f->value_lines ? "\n</parameter>" : f->param_close;
}

/* The next byte of CLOSING behind TEXT [n], as a token; -1: there is none. */
static int32_t next_of(const words *w, const char *closing, const char *text, size_t n) {
    char letter[5] = {0};
    size_t k = closing ? strlen(closing) - 1 : 0;
    while (k > 0 && !(k <= n && memcmp(text + n - k, closing, k) == 0))
        k--;
    if (!closing)
        return -1;
    utf8_encode(tokenizer_byte_letter((unsigned char)closing[k]), letter);
    return tokenizer_find(w->t, strview_of(letter));
}

/* In a hurry to end: the end, or else mostly what closes. */
static int32_t closing_token(const words *w, const uint32_t *mask, int32_t next) {
    static const char *const closing[] = {"}", "]", "\"", "1", "a"};
    for (size_t i = 0; i < w->trie->n_ends; i++)
        if (allows(mask, (int32_t)w->trie->ends[i]))
            return (int32_t)w->trie->ends[i];
    if (next >= 0 && allows(mask, next) && random_below(32))
        return next;
    const size_t n = sizeof closing / sizeof *closing, from = random_below((uint32_t)n);
    for (size_t i = 0; i < n && random_below(32); i++) {
        const int32_t id = tokenizer_find(w->t, strview_of(closing[(from + i) % n]));
        if (allows(mask, id))
            return id;
    }
    return any_token(w, mask);
}

/* Now and then a token of structure, so that strings end. */
static int32_t walking_token(const words *w, const uint32_t *mask) {
    static const char *const marks[] = {"\"", ",", "}", "]", "\",", "\":", "{", "[", "1", "\\", " ", "\n"};
    if (random_below(3) == 0) {
        const int32_t id =
            tokenizer_find(w->t, strview_of(marks[random_below(sizeof marks / sizeof *marks)]));
        if (allows(mask, id))
            return id;
    }
    return any_token(w, mask);
}

/* One answer; its text, freed with free. NULL: it did not end. */
static char *walk(const words *w, guide_plan *plan, const char *closing, size_t *bytes, nib_error *err) {
    guide *g;
    char *text = NULL;
    size_t room = 0, n = 0;
    if (guide_open(&g, plan, err) != NIB_OK)
        die(err);
    const uint32_t calm = random_below(60);
    bool ended = false;
    for (uint32_t step = 0; step < MAX_STEPS && !ended; step++) {
        const uint32_t *mask = guide_mask(g);
        const int32_t token = !mask         ? -1
                              : step < calm ? walking_token(w, mask)
                                            : closing_token(w, mask, next_of(w, closing, text, n));
        if (token < 0 || !guide_accept(g, token)) {
            snprintf(err->text, sizeof err->text, "token %d is in the mask and not accepted, after %.*s",
                     (int)token, (int)(n < 300 ? n : 300), text ? text : "");
            break;
        }
        const strview word = tokenizer_piece(w->t, token, true);
        ended = tokenizer_is_end(w->t, token);
        if (n + word.n + 1 > room) {
            room = 2 * room + word.n + 64;
            text = realloc(text, room);
            if (!text)
                abort();
        }
        memcpy(text + n, word.p, ended ? 0 : word.n);
        n += ended ? 0 : word.n;
    }
    if (guide_failure(g, err) == NIB_OK && !ended && !err->text[0])
        snprintf(err->text, sizeof err->text, "no end after %d tokens: %.*s", MAX_STEPS,
                 (int)(n < 200 ? n : 200), text ? text + (n < 200 ? 0 : n - 200) : "");
    guide_close(g);
    *bytes = n;
    if (!ended) {
        free(text);
        return NULL;
    }
    return text;
}

/* TEXT, which is freed, as a detokenizer gives it. */
static char *repaired(char *text, size_t *bytes) {
    text_buffer sound = {0};
    nib_error err = {""};
    if (normalize_repair(&sound, text, *bytes, &err) != NIB_OK ||
        text_buffer_append(&sound, "", 1, &err) != NIB_OK)
        die(&err);
    free(text);
    *bytes = sound.n - 1;
    return sound.bytes;
}

/* The calls that FORMAT's reader finds in TEXT, and the text it finds beside them. */
static json_t *read_calls(const json_t *shape, const char *text, size_t n, nib_error *err) {
    const json_t *tools = json_object_get(json_object_get(shape, "schema"), "tools");
    const strview none = {0};
    chat *c;
    chat_answer a;
    if (chat_open(&c, strview_of("x"), none, none, err) != NIB_OK)
        die(err);
    c->format = format_of(shape);
    if (chat_read(c, tools, NULL, text, n, &a, err) != NIB_OK)
        die(err);
    json_t *calls = json_array();
    for (size_t i = 0; i < a.n_calls; i++)
        json_array_append_new(calls, json_pack("[s, s]", a.calls[i].name, a.calls[i].arguments));
    if (a.text[0])
        json_array_append_new(calls, json_string(a.text));
    chat_answer_free(&a);
    chat_close(c);
    return calls;
}

static int walks(const words *w, json_t *shapes, size_t n_walks) {
    const size_t n = json_array_size(shapes);
    guide_plan **plans = calloc(n + 1, sizeof(guide_plan *));
    nib_error err = {""};
    double took;
    for (size_t i = 0; plans && i < n; i++) {
        plans[i] = open_plan(w, json_array_get(shapes, i), &took, &err);
        if (!plans[i])
            die(&err);
    }
    for (size_t i = 0; plans && n && i < n_walks; i++) {
        size_t bytes;
        const json_t *shape = json_array_get(shapes, i % n);
        char *text = walk(w, plans[i % n], closing_of(format_of(shape)), &bytes, &err);
        if (text && kind_of(shape) == GUIDE_CALL) /* harmony's reasoning may be any bytes */
            text = repaired(text, &bytes);
        json_t *calls = text && kind_of(shape) == GUIDE_CALL ? read_calls(shape, text, bytes, &err) : NULL;
        if (text)
            print_line(
                json_pack("{s:i,s:s%,s:o*}", "shape", (int)(i % n), "text", text, bytes, "calls", calls));
        else
            print_line(json_pack("{s:i,s:s}", "shape", (int)(i % n), "error", err.text));
        free(text);
    }
    for (size_t i = 0; plans && i < n; i++)
        guide_plan_release(plans[i]);
    free(plans);
    return 0;
}

/* ---- documents ---- */

/* A vocabulary of the 256 bytes and an end. */
static words byte_words(void) {
    static strview tokens[257];
    static char names[257][8];
    static int32_t types[257];
    static float scores[257];
    words w = {0};
    nib_error err = {""};
    for (int i = 0; i < 257; i++) {
        snprintf(names[i], sizeof names[i], i < 256 ? "<0x%02X>" : "</s>", i);
        tokens[i] = strview_of(names[i]);
        types[i] = i < 256 ? TOKEN_BYTE : TOKEN_CONTROL;
    }
    token_source s = token_source_unset("bytes");
    s.model = strview_of("llama");
    s.tokens = tokens;
    s.types = types;
    s.scores = scores;
    s.n_tokens = 257;
    s.eos = 256;
    s.add_space_prefix = 0;
    if (tokenizer_open(&w.t, &s, &err) != NIB_OK || trie_open(&w.trie, w.t, 0, &err) != NIB_OK)
        die(&err);
    return w;
}

static bool check_document(guide_plan *plan, const char *doc, size_t n) {
    guide *g;
    nib_error err = {""};
    if (guide_open(&g, plan, &err) != NIB_OK)
        die(&err);
    bool allowed = true;
    for (size_t i = 0; i <= n && allowed; i++) {
        const int32_t token = i < n ? (unsigned char)doc[i] : 256;
        const uint32_t *mask = guide_mask(g);
        const bool in_mask = mask && allows(mask, token);
        allowed = guide_accept(g, token);
        if (allowed != in_mask) {
            fprintf(stderr, "bench_structured: mask and matcher disagree at byte %zu of %s\n", i, doc);
            exit(1);
        }
    }
    guide_close(g);
    return allowed;
}

static json_t *check_documents(guide_plan *plan, const json_t *docs) {
    json_t *results = json_array(), *doc;
    size_t k;
    json_array_foreach(docs, k, doc) {
        const bool allowed = check_document(plan, json_string_value(doc), json_string_length(doc));
        json_array_append_new(results, json_boolean(allowed));
    }
    return results;
}

static int check(json_t *shapes) {
    words w = byte_words();
    json_t *shape;
    size_t i;
    json_array_foreach(shapes, i, shape) {
        nib_error err = {""};
        double took;
        guide_plan *plan = open_plan(&w, shape, &took, &err);
        if (plan)
            print_line(json_pack(
                "{s:o,s:o,s:f}", "docs", check_documents(plan, json_object_get(shape, "docs")), "bad",
                check_documents(plan, json_object_get(shape, "bad")), "compile_ms", took * 1e3));
        else
            print_line(json_pack("{s:s,s:f}", "error", err.text, "compile_ms", took * 1e3));
        guide_plan_release(plan);
    }
    close_words(&w);
    return 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    const bool is_walk = strcmp(mode, "walk") == 0, is_speed = strcmp(mode, "speed") == 0;
    if (!(is_walk && argc == 6) && !(is_speed && argc == 4) && !(strcmp(mode, "check") == 0 && argc == 3)) {
        fprintf(stderr,
                "usage: bench_structured speed SHAPES MODEL | walk SHAPES MODEL N SEED | check SHAPES\n");
        return 2;
    }
    json_t *shapes = read_shapes(argv[2]);
    int code;
    if (is_speed || is_walk) {
        words w = open_words(argv[3]);
        random_state = is_walk ? strtoull(argv[5], NULL, 10) : 0;
        code = is_walk ? walks(&w, shapes, strtoull(argv[4], NULL, 10)) : speed(&w, shapes);
        close_words(&w);
    } else {
        code = check(shapes);
    }
    json_decref(shapes);
    return code;
}
