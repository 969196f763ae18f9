/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens per second with guesses, from the text or from a smaller model, and without, in turn, so that a busy
 * machine slows both; and whether the answers are the same. Two kinds of texts: one that is copied with a
 * small change, as in editing and quoting, and one that is written freely. The interval is the median's at
 * 95 %, from the ranks of the rounds' ratios; "each answer" is the ratio of the answers' own times, where the
 * one before is that of the last to end.
 *
 *   ninja -C build/release bench_speculate && build/release/bench_speculate MODEL [TOKENS [ROUNDS [DRAFT|-
 *       [STREAMS]]]]      (STREAMS: only rows of so many)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "nibble.h"

enum { MAX_STREAMS = 4, MAX_TOKENS = 1024, MAX_ROUNDS = 256 };

static const struct {
    const char *name, *prompt;
} texts[] = {
    {"copied", "Repeat the list exactly, three times.\n\n"
               "1. Ada Lovelace, London, 10 December 1815, mathematician and writer.\n"
               "2. Charles Babbage, London, 26 December 1791, inventor of the difference engine.\n"
               "3. George Boole, Lincoln, 2 November 1815, author of The Laws of Thought.\n\n"
               "1. Ada Lovelace, London, 10 December 1815, mathematician and writer.\n"
               "2. Charles Babbage, London, 26 December 1791, inventor of the difference engine.\n"
               "3. George Boole, Lincoln, 2 November 1815, author of The Laws of Thought.\n\n"
               "1. Ada Lovelace,"},
    {"written", "The lighthouse keeper had not spoken to anyone for eleven days when, one morning,"},
};

typedef struct answer {
    int32_t tokens[MAX_TOKENS];
    int n;
} answer;

static void die(const char *what, const nib_error *err) {
    fprintf(stderr, "%s: %s\n", what, err->text);
    exit(1);
}

static nib_engine *open_engine(const char *path, nib_speculate how, const char *draft) {
    nib_error err = {""};
    nib_engine *e;
    nib_options o = {
        .size = sizeof o, .device = "cpu", .speculate = how, .draft = draft, .no_prefix_cache = true};
    if (nib_open(&e, path, &o, &err) != NIB_OK)
        die(path, &err);
    return e;
}

/* Seconds that STREAMS answers took from the first token on, as the engine says. */
typedef struct times {
    double last, mean; /* of the one that took longest; of all */
} times;

static times generate(nib_engine *e, const char *prompt, int streams, int n_tokens, float temperature,
                      answer *answers) {
    nib_error err = {""};
    nib_request *requests[MAX_STREAMS];
    int32_t *ids;
    size_t n_ids;
    if (nib_tokenize(e, prompt, strlen(prompt), 0, &ids, &n_ids, &err) != NIB_OK)
        die("nib_tokenize", &err);
    for (int i = 0; i < streams; i++) {
        const nib_sampling s = {.size = sizeof s, .temperature = temperature, .seed = (uint64_t)i};
        const nib_request_options o = {.size = sizeof o,
                                       .prompt = ids,
                                       .n_prompt = n_ids,
                                       .max_tokens = n_tokens,
                                       .ignore_eos = true,
                                       .sampling = &s,
                                       .same_prompt = i > 0 ? requests[0] : NULL};
        if (nib_submit(e, &o, &requests[i], &err) != NIB_OK)
            die("nib_submit", &err);
    }
    times took = {0};
    for (int i = 0; i < streams; i++) {
        nib_event event = {.size = sizeof event};
        for (answers[i].n = 0;; answers[i].tokens[answers[i].n++] = event.token) {
            if (nib_next_event(requests[i], &event, -1, &err) != NIB_OK)
                die("nib_next_event", &err);
            if (event.kind == NIB_EVENT_END)
                break;
        }
        took.last = fmax(took.last, event.generate_ms * 1e-3);
        took.mean += event.generate_ms * 1e-3 / streams;
        nib_release(requests[i]);
    }
    nib_free(ids);
    return took;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* VALUES [N] are sorted. */
static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return (values[n / 2] + values[(n - 1) / 2]) / 2;
}

/* The rank, from either end, of the values between which the median of what they are drawn from lies in 95 %
 * of all draws (binomial, as a normal distribution). */
static int rank_of_interval(int n) {
    const int rank = (int)floor(n / 2.0 - 0.98 * sqrt(n));
    return rank > 0 ? rank : 0;
}

enum { WITHOUT, AGAIN, WITH, N_ENGINES }; /* the second tells what two engines differ in that do the same */

static bool are_equal(const answer *a, const answer *b, int streams) {
    for (int i = 0; i < streams; i++)
        if (a[i].n != b[i].n || memcmp(a[i].tokens, b[i].tokens, (size_t)a[i].n * sizeof(int32_t)) != 0)
            return false;
    return true;
}

/* What ROUNDS of a row took, and what came of them. */
typedef struct row {
    double without[MAX_ROUNDS], with[MAX_ROUNDS];                    /* seconds */
    double again[MAX_ROUNDS], ratio[MAX_ROUNDS], answer[MAX_ROUNDS]; /* of speeds */
} row;

static void print_row(row *r, const char *name, double temperature, int streams, int n_tokens, int rounds) {
    const double tokens = (double)streams * (n_tokens - 1);
    const double again = median(r->again, rounds), ratio = median(r->ratio, rounds),
                 of_each = median(r->answer, rounds);
    const int rank = rank_of_interval(rounds);
    printf("| %s | %g | %d | %.1f | %.1f | %.3f | %.3f (%.3f to %.3f) | %.3f |", name, temperature, streams,
           tokens / median(r->without, rounds), tokens / median(r->with, rounds), again, ratio,
           r->ratio[rank], r->ratio[rounds - 1 - rank], of_each);
}

/* A row of the table. False: some answers differ. */
static bool compare(nib_engine *const *engines, int text, float temperature, int streams, int n_tokens,
                    int rounds) {
    static answer answers[N_ENGINES][MAX_STREAMS];
    static row r;
    nib_stats before = {.size = sizeof before}, after = before;
    bool equal = true;
    nib_get_stats(engines[WITH], &before, NULL);
    for (int round = 0; round < rounds; round++) {
        times t[N_ENGINES];
        for (int i = 0; i < N_ENGINES; i++) {
            const int which = (round + i) % N_ENGINES;
            t[which] =
                generate(engines[which], texts[text].prompt, streams, n_tokens, temperature, answers[which]);
        }
        r.without[round] = t[WITHOUT].last;
        r.with[round] = t[WITH].last;
        r.again[round] = t[WITHOUT].last / t[AGAIN].last;
        r.ratio[round] = (t[WITHOUT].last + t[AGAIN].last) / 2 / t[WITH].last;
        r.answer[round] = (t[WITHOUT].mean + t[AGAIN].mean) / 2 / t[WITH].mean;
        equal = equal && are_equal(answers[WITHOUT], answers[WITH], streams);
    }
    nib_get_stats(engines[WITH], &after, NULL);
    print_row(&r, texts[text].name, (double)temperature, streams, n_tokens, rounds);
    printf(" %llu of %llu | %s |\n", (unsigned long long)(after.right_guesses - before.right_guesses),
           (unsigned long long)(after.guessed_tokens - before.guessed_tokens), equal ? "equal" : "DIFFERENT");
    fflush(stdout);
    return equal;
}

int main(int argc, char **argv) {
    const int n_tokens = argc > 2 ? atoi(argv[2]) : 128, rounds = argc > 3 ? atoi(argv[3]) : 9;
    if (argc < 2 || n_tokens < 2 || n_tokens > MAX_TOKENS || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: %s MODEL [TOKENS (2 to %d) [ROUNDS (1 to %d) [DRAFT|- [STREAMS]]]]\n",
                argv[0], MAX_TOKENS, MAX_ROUNDS);
        return 2;
    }
    const char *draft = argc > 4 && strcmp(argv[4], "-") != 0 ? argv[4] : NULL;
    const int only = argc > 5 ? atoi(argv[5]) : 0;
    nib_engine *engines[N_ENGINES] = {
        open_engine(argv[1], NIB_SPECULATE_OFF, NULL), open_engine(argv[1], NIB_SPECULATE_OFF, NULL),
        open_engine(argv[1], draft ? NIB_SPECULATE_DRAFT : NIB_SPECULATE_LOOKUP, draft)};
    printf("| text | temperature | streams | tokens/s without | with | without, again | with | each answer | "
           "guesses right | answers |\n"
           "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n");
    bool same = true;
    for (int t = 0; t < (int)(sizeof texts / sizeof *texts); t++)
        for (int warm = 0; warm < 2; warm++)
            for (int streams = 1; streams <= MAX_STREAMS; streams *= MAX_STREAMS)
                if (only == 0 || only == streams)
                    same &= compare(engines, t, warm ? 0.7f : 0, streams, n_tokens, rounds);
    for (int i = 0; i < N_ENGINES; i++)
        nib_close(engines[i]);
    return same ? 0 : 1;
}
