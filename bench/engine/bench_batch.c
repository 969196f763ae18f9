/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens per second of many requests in the engine itself, no server before it: each line of standard input
 * is a prompt, all are submitted at once, RUNNING of them run at a time, each answer has TOKENS tokens.
 *
 *   ninja -C build/release bench_batch && build/release/bench_batch MODEL RUNNING TOKENS < PROMPTS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "nibble.h"

enum { MAX_REQUESTS = 4096, MAX_LINE = 4096 };

static void check(nib_status status, const nib_error *err) {
    if (status == NIB_OK)
        return;
    fprintf(stderr, "bench_batch: %s\n", err->text);
    exit(1);
}

static nib_request *submit(nib_engine *engine, const char *prompt, int n_tokens) {
    const nib_sampling greedy = {.size = sizeof greedy};
    nib_error err = {""};
    nib_request *r;
    int32_t *ids;
    size_t n;
    check(nib_tokenize(engine, prompt, strlen(prompt), 0, &ids, &n, &err), &err);
    const nib_request_options o = {.size = sizeof o,
                                   .prompt = ids,
                                   .n_prompt = n,
                                   .max_tokens = n_tokens,
                                   .ignore_eos = true,
                                   .sampling = &greedy};
    check(nib_submit(engine, &o, &r, &err), &err);
    nib_free(ids);
    return r;
}

/* Waits for the END; how many tokens came. */
static int finish(nib_request *r) {
    nib_error err = {""};
    nib_event e = {.size = sizeof e};
    while (e.kind != NIB_EVENT_END)
        check(nib_next_event(r, &e, -1, &err), &err);
    if (e.reason == NIB_END_FAILED) {
        fprintf(stderr, "bench_batch: %s\n", e.error);
        exit(1);
    }
    nib_release(r);
    return e.n_generated;
}

int main(int argc, char **argv) {
    static nib_request *requests[MAX_REQUESTS];
    static char line[MAX_LINE];
    const int running = argc == 4 ? atoi(argv[2]) : 0, n_tokens = argc == 4 ? atoi(argv[3]) : 0;
    if (running < 1 || n_tokens < 1) {
        fprintf(stderr, "usage: bench_batch MODEL RUNNING TOKENS < PROMPTS\n");
        return 2;
    }
    nib_engine *engine;
    nib_error err = {""};
    const nib_options options = {
        .size = sizeof options, .max_num_seqs = running, .max_waiting = MAX_REQUESTS};
    check(nib_open(&engine, argv[1], &options, &err), &err);
    const double from = clock_seconds();
    int n = 0;
    long total = 0;
    while (n < MAX_REQUESTS && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        requests[n++] = submit(engine, line, n_tokens);
    }
    for (int i = 0; i < n; i++)
        total += finish(requests[i]);
    const double seconds = clock_seconds() - from;
    nib_stats stats = {.size = sizeof stats};
    check(nib_get_stats(engine, &stats, &err), &err);
    printf("%d requests, %d at a time, %d tokens each, %llu steps of %.1f rows, %.1f s of %.1f in steps: "
           "%.1f tokens/s\n",
           n, running, n_tokens, (unsigned long long)stats.steps,
           (double)stats.step_rows / (double)(stats.steps ? stats.steps : 1), stats.step_seconds, seconds,
           (double)total / seconds);
    nib_close(engine);
    return 0;
}
