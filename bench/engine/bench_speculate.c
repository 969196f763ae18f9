/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens per second with guesses, from the text or from a smaller model, and without, in turns of a few
 * steps, so that a busy machine slows both; and whether the answers are the same. Two kinds of texts: one
 * that is copied with a small change, as in editing and quoting, and one that is written freely. The interval
 * is the median's at 95 %, from the ranks of the rounds' ratios; "each answer" is the ratio of the answers'
 * own times, where the one before is that of the last to end.
 *
 *   ninja -C build/release bench_speculate && build/release/bench_speculate MODEL [TOKENS [ROUNDS [DRAFT|-
 *       [STREAMS [TEXT]]]]]      (only rows of so many streams, 0: all; of that text)
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* ---- answers of several engines, of which one computes at a time ---- */

/* Answers that an engine writes. Its thread writes it, but `active` and `of_each`, which this one does once
 * all is told. */
typedef struct writer {
    nib_engine *engine;
    nib_request *requests[MAX_STREAMS];
    answer answers[MAX_STREAMS];
    double ended[MAX_STREAMS]; /* clock_seconds */
    double first;              /* token of any; 0: none yet */
    double active;             /* seconds since then in which it computed, until the last has ended */
    double of_each;            /* the same until its own end, mean of all */
    atomic_int n_begun, n_ended;
    uint64_t n_tokens, n_all_ended; /* since it was opened; as the next, under the lock */
    pthread_mutex_t lock;
    int streams;
} writer;

static void take(void *context, nib_request *request, const nib_event *event) {
    writer *w = context;
    int i = 0;
    while (w->requests[i] != request)
        i++;
    pthread_mutex_lock(&w->lock);
    if (event->kind == NIB_EVENT_END) {
        w->ended[i] = clock_seconds();
        w->n_all_ended++;
        atomic_fetch_add(&w->n_ended, 1);
    } else {
        if (w->first == 0)
            w->first = clock_seconds();
        w->answers[i].tokens[w->answers[i].n++] = event->token;
        w->n_tokens++;
        if (w->answers[i].n == 1)
            atomic_fetch_add(&w->n_begun, 1);
    }
    pthread_mutex_unlock(&w->lock);
}

/* An engine that rests has yet to tell of its last step. */
static void wait_until_told(writer *w) {
    nib_stats s = {.size = sizeof s};
    bool told = false;
    nib_get_stats(w->engine, &s, NULL);
    while (!told) {
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
        pthread_mutex_lock(&w->lock);
        told = w->n_tokens == s.generated_tokens &&
               w->n_all_ended == s.ended[NIB_END_STOP] + s.ended[NIB_END_LENGTH];
        pthread_mutex_unlock(&w->lock);
    }
}

static void rest(writer *w, nib_rest how) {
    nib_error err = {""};
    if (nib_set_rest(w->engine, how, &err) != NIB_OK)
        die("nib_set_rest", &err);
}

static void begin(writer *w, const char *prompt, int streams, int n_tokens, float temperature) {
    nib_error err = {""};
    int32_t *ids;
    size_t n_ids;
    rest(w, NIB_REST_KEEP);
    if (nib_tokenize(w->engine, prompt, strlen(prompt), 0, &ids, &n_ids, &err) != NIB_OK)
        die("nib_tokenize", &err);
    atomic_store(&w->n_begun, 0);
    atomic_store(&w->n_ended, 0);
    w->first = w->active = w->of_each = 0;
    w->streams = streams;
    for (int i = 0; i < streams; i++) {
        const nib_sampling s = {.size = sizeof s, .temperature = temperature, .seed = (uint64_t)i};
        const nib_request_options o = {.size = sizeof o,
                                       .prompt = ids,
                                       .n_prompt = n_ids,
                                       .max_tokens = n_tokens,
                                       .ignore_eos = true,
                                       .sampling = &s,
                                       .on_event = take,
                                       .event_context = w,
                                       .same_prompt = i > 0 ? w->requests[0] : NULL};
        w->answers[i].n = 0;
        w->ended[i] = 0;
        if (nib_submit(w->engine, &o, &w->requests[i], &err) != NIB_OK)
            die("nib_submit", &err);
    }
    nib_free(ids);
}

/* W computes for SECONDS, or until all its answers have begun (SECONDS 0), or ended. */
static void compute(writer *w, double seconds) {
    const double from = clock_seconds();
    rest(w, NIB_REST_NONE);
    while (atomic_load(&w->n_ended) < w->streams &&
           (seconds == 0 ? atomic_load(&w->n_begun) < w->streams : clock_seconds() - from < seconds))
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    rest(w, NIB_REST_KEEP);
    const double to = clock_seconds();
    wait_until_told(w);
    const double begun = w->first > from ? w->first : from;
    double last = 0;
    for (int i = 0; i < w->streams; i++) {
        const double end = w->ended[i] > 0 ? w->ended[i] : to;
        w->of_each += end > begun ? (end - begun) / w->streams : 0;
        last = fmax(last, end);
    }
    w->active += last > begun ? last - begun : 0;
}

static void finish(writer *w) {
    for (int i = 0; i < w->streams; i++)
        nib_release(w->requests[i]);
}

/* ---- what came of it ---- */

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
 * of all draws (binomial, as a normal distribution); of fewer than 6, all that there is. */
static int rank_of_interval(int n) {
    const int rank = (int)floor(n / 2.0 - 0.98 * sqrt(n) - 0.5);
    return rank > 0 ? rank : 0;
}

enum { WITHOUT, AGAIN, WITH, N_ENGINES }; /* the second tells what two engines differ in that do the same */

#define SLICE_S 0.015 /* that each computes in turn: a machine that is slow for a moment slows all */

static bool are_equal(const writer *a, const writer *b) {
    for (int i = 0; i < a->streams; i++)
        if (a->answers[i].n != b->answers[i].n || memcmp(a->answers[i].tokens, b->answers[i].tokens,
                                                         (size_t)a->answers[i].n * sizeof(int32_t)) != 0)
            return false;
    return true;
}

static void write_all(writer *w, int round) {
    bool all_ended = false;
    for (int turn = 0; !all_ended; turn++) {
        all_ended = true;
        for (int i = 0; i < N_ENGINES; i++) {
            writer *one = &w[(round + i) % N_ENGINES];
            if (atomic_load(&one->n_ended) == one->streams)
                continue;
            compute(one, turn == 0 ? 0 : SLICE_S);
            all_ended = all_ended && atomic_load(&one->n_ended) == one->streams;
        }
    }
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

/* What is measured. */
typedef struct setup {
    const char *path, *draft;
    int n_tokens, rounds, text, streams;
    float temperature;
} setup;

/* Engines are opened anew now and then: where their weights happen to lie makes one faster than another. */
static void open_all(writer *w, const setup *s) {
    const nib_speculate how = s->draft ? NIB_SPECULATE_DRAFT : NIB_SPECULATE_LOOKUP;
    for (int i = 0; i < N_ENGINES; i++) {
        w[i].n_tokens = w[i].n_all_ended = 0;
        pthread_mutex_init(&w[i].lock, NULL);
        w[i].engine = open_engine(s->path, i == WITH ? how : NIB_SPECULATE_OFF, i == WITH ? s->draft : NULL);
    }
}

static void close_all(writer *w, nib_stats *sum) {
    nib_stats stats = {.size = sizeof stats};
    nib_get_stats(w[WITH].engine, &stats, NULL);
    sum->right_guesses += stats.right_guesses;
    sum->guessed_tokens += stats.guessed_tokens;
    for (int i = 0; i < N_ENGINES; i++) {
        nib_close(w[i].engine);
        pthread_mutex_destroy(&w[i].lock);
    }
}

static void one_round(writer *w, const setup *s, int round, row *r) {
    for (int i = 0; i < N_ENGINES; i++)
        begin(&w[i], texts[s->text].prompt, s->streams, s->n_tokens, s->temperature);
    write_all(w, round);
    r->without[round] = w[WITHOUT].active;
    r->with[round] = w[WITH].active;
    r->again[round] = w[WITHOUT].active / w[AGAIN].active;
    r->ratio[round] = (w[WITHOUT].active + w[AGAIN].active) / 2 / w[WITH].active;
    r->answer[round] = (w[WITHOUT].of_each + w[AGAIN].of_each) / 2 / w[WITH].of_each;
    for (int i = 0; i < N_ENGINES; i++)
        finish(&w[i]);
}

/* A row of the table. False: some answers differ. */
static bool compare(const setup *s) {
    enum { STAY_OPEN = 8 }; /* rounds */
    static writer w[N_ENGINES];
    static row r;
    nib_stats sum = {.size = sizeof sum};
    bool equal = true;
    for (int round = 0; round < s->rounds; round++) {
        if (round % STAY_OPEN == 0) {
            if (round > 0)
                close_all(w, &sum);
            open_all(w, s);
        }
        one_round(w, s, round, &r);
        equal = equal && are_equal(&w[WITHOUT], &w[WITH]);
    }
    close_all(w, &sum);
    print_row(&r, texts[s->text].name, (double)s->temperature, s->streams, s->n_tokens, s->rounds);
    printf(" %llu of %llu | %s |\n", (unsigned long long)sum.right_guesses,
           (unsigned long long)sum.guessed_tokens, equal ? "equal" : "DIFFERENT");
    fflush(stdout);
    return equal;
}

int main(int argc, char **argv) {
    setup s = {.n_tokens = argc > 2 ? atoi(argv[2]) : 128, .rounds = argc > 3 ? atoi(argv[3]) : 9};
    if (argc < 2 || s.n_tokens < 2 || s.n_tokens > MAX_TOKENS || s.rounds < 1 || s.rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: %s MODEL [TOKENS (2 to %d) [ROUNDS (1 to %d) [DRAFT|- [STREAMS [TEXT]]]]]\n",
                argv[0], MAX_TOKENS, MAX_ROUNDS);
        return 2;
    }
    const int only = argc > 5 ? atoi(argv[5]) : 0;
    const char *only_text = argc > 6 ? argv[6] : NULL;
    bool same = true;
    s.path = argv[1];
    s.draft = argc > 4 && strcmp(argv[4], "-") != 0 ? argv[4] : NULL;
    printf("| text | temperature | streams | tokens/s without | with | without, again | with | each answer | "
           "guesses right | answers |\n"
           "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n");
    for (s.text = 0; s.text < (int)(sizeof texts / sizeof *texts); s.text++)
        for (int warm = 0; warm < 2; warm++)
            for (s.streams = 1; s.streams <= MAX_STREAMS; s.streams *= MAX_STREAMS) {
                s.temperature = warm ? 0.7f : 0;
                if ((only == 0 || only == s.streams) &&
                    (!only_text || strcmp(only_text, texts[s.text].name) == 0))
                    same &= compare(&s);
            }
    return same ? 0 : 1;
}
