/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens per second of many streams with a schema and without one, in turn, so that a busy machine slows
 * both; one line. The schema's document does not end before the tokens do. A mask's time has the accepting of
 * the token in it.
 *
 *   ninja -C build/release bench_shapes && build/release/bench_shapes MODEL [STREAMS [TOKENS [ROUNDS]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "nibble.h"

#define MAX_STREAMS 64

static const char schema[] =
    "{\"type\":\"array\",\"minItems\":1000,\"items\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":"
    "\"string\"},"
    "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":120},\"tags\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"string\","
    "\"maxLength\":20},\"maxItems\":4}},\"required\":[\"name\",\"age\"],\"additionalProperties\":false}}";

/* A guide that takes the CPU time of another. */
typedef struct timed {
    nib_guide guide;
} timed;

static double mask_seconds; /* the engine's thread alone adds, and nobody reads meanwhile */
static long n_masks;

static double cpu_seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static nib_status timed_mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    const nib_guide *g = &((timed *)context)->guide;
    const double from = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    const nib_status status = g->mask(g->context, bits, n_words, err);
    mask_seconds += cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - from;
    n_masks++;
    return status;
}

static nib_status timed_accept(void *context, int32_t token, nib_error *err) {
    const nib_guide *g = &((timed *)context)->guide;
    const double from = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    const nib_status status = g->accept(g->context, token, err);
    mask_seconds += cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - from;
    return status;
}

static void check(nib_status status, const nib_error *err) {
    if (status == NIB_OK)
        return;
    fprintf(stderr, "bench_shapes: %s\n", err->text);
    exit(1);
}

/* Tokens per second from the first submission to the last END. */
static double measure(nib_engine *engine, nib_shape *shape, int n_streams, int n_tokens, uint64_t seed) {
    static const char prompt[] = "A list of people as JSON:\n";
    nib_request *requests[MAX_STREAMS];
    timed guides[MAX_STREAMS];
    nib_error err = {""};
    int32_t *ids;
    size_t n_ids;
    int total = 0;
    check(nib_tokenize(engine, prompt, strlen(prompt), 0, &ids, &n_ids, &err), &err);
    const double from = clock_seconds();
    for (int i = 0; i < n_streams; i++) {
        const nib_sampling how = {
            .size = sizeof how, .temperature = 0.8f, .top_k = 40, .seed = seed + (uint64_t)i};
        nib_request_options o = {.size = sizeof o,
                                 .prompt = ids,
                                 .n_prompt = n_ids,
                                 .max_tokens = n_tokens,
                                 .min_tokens = n_tokens,
                                 .sampling = &how,
                                 .no_prefix_cache = true};
        guides[i] = (timed){.guide = {.size = sizeof(nib_guide)}};
        const nib_guide guide = {
            .size = sizeof guide, .context = &guides[i], .mask = timed_mask, .accept = timed_accept};
        if (shape) {
            check(nib_shape_guide(shape, &guides[i].guide, &err), &err);
            o.guide = &guide;
        }
        check(nib_submit(engine, &o, &requests[i], &err), &err);
    }
    for (int i = 0; i < n_streams; i++) {
        nib_event e = {.size = sizeof e};
        while (e.kind != NIB_EVENT_END)
            check(nib_next_event(requests[i], &e, -1, &err), &err);
        if (e.reason == NIB_END_FAILED) {
            fprintf(stderr, "bench_shapes: %s\n", e.error);
            exit(1);
        }
        total += e.n_generated;
        nib_release(requests[i]);
        nib_shape_free_guide(&guides[i].guide);
    }
    const double took = clock_seconds() - from;
    nib_free(ids);
    return total / took;
}

static int compare(const void *x, const void *y) {
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    const int n_streams = argc > 2 ? atoi(argv[2]) : 16, n_tokens = argc > 3 ? atoi(argv[3]) : 64;
    const int n_rounds = argc > 4 ? atoi(argv[4]) : 5;
    if (argc < 2 || n_streams < 1 || n_streams > MAX_STREAMS || n_tokens < 1 || n_rounds < 1 ||
        n_rounds > 99) {
        fprintf(stderr, "usage: bench_shapes MODEL [STREAMS [TOKENS [ROUNDS]]]\n");
        return 2;
    }
    nib_engine *engine;
    nib_shape *shape;
    nib_error err = {""};
    const nib_options options = {.size = sizeof options, .max_num_seqs = n_streams};
    const nib_shape_options wanted = {
        .size = sizeof wanted, .kind = NIB_SHAPE_JSON_SCHEMA, .text = schema, .bytes = strlen(schema)};
    check(nib_open(&engine, argv[1], &options, &err), &err);
    check(nib_shape_open(engine, &wanted, &shape, &err), &err);
    double free_rate[99], shaped_rate[99], ratio[99];
    double free_cpu = 0, shaped_cpu = 0;
    nib_info info = {.size = sizeof info};
    check(nib_get_info(engine, &info, &err), &err);
    for (int i = 0; i < n_rounds; i++) {
        const double began = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
        free_rate[i] = measure(engine, NULL, n_streams, n_tokens, (uint64_t)i * 100);
        const double between = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
        shaped_rate[i] = measure(engine, shape, n_streams, n_tokens, (uint64_t)i * 100);
        free_cpu += between - began;
        shaped_cpu += cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - between;
        ratio[i] = shaped_rate[i] / free_rate[i];
    }
    qsort(free_rate, (size_t)n_rounds, sizeof *free_rate, compare);
    qsort(shaped_rate, (size_t)n_rounds, sizeof *shaped_rate, compare);
    qsort(ratio, (size_t)n_rounds, sizeof *ratio, compare);
    printf(
        "%d streams of %d tokens, %d rounds: %.1f tokens/s without a schema, %.1f with it (medians; median "
        "round's ratio %.3f); CPU per token %.2f and %.2f ms; guides %.2f %% of a step, %.1f us a mask\n",
        n_streams, n_tokens, n_rounds, free_rate[n_rounds / 2], shaped_rate[n_rounds / 2],
        ratio[n_rounds / 2], 1e3 * free_cpu / (n_streams * n_tokens * n_rounds),
        1e3 * shaped_cpu / (n_streams * n_tokens * n_rounds), 100 * mask_seconds * info.threads / shaped_cpu,
        mask_seconds / (double)n_masks * 1e6);
    nib_shape_release(shape);
    nib_close(engine);
    return 0;
}
