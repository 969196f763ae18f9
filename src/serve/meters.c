/* SPDX-License-Identifier: Apache-2.0
 *
 * See meters.h. Histograms are counted here; what the engine counts is asked of it.
 */
#include "serve/meters.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "serve/live.h"

#define MAX_BUCKETS 24

static const double ttft_bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                     1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double itl_bounds[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                    .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double latency_bounds[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double count_bounds[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                      1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
static const double few_bounds[] = {1, 2, 5, 10, 20, 50, 100};

#define BOUNDS(list) list, sizeof list / sizeof *list

static const struct {
    const char *name, *help;
    const double *bounds;
    size_t n;
} kinds[METER_HISTOGRAMS] = {
    [METER_TTFT] = {"time_to_first_token_seconds", "From a request to its first token", BOUNDS(ttft_bounds)},
    [METER_ITL] = {"inter_token_latency_seconds", "From one token to the next", BOUNDS(itl_bounds)},
    [METER_TPOT] = {"request_time_per_output_token_seconds", "Mean per token after the first",
                    BOUNDS(itl_bounds)},
    [METER_E2E] = {"e2e_request_latency_seconds", "From a request to its last token", BOUNDS(latency_bounds)},
    [METER_QUEUE] = {"request_queue_time_seconds", "Before the first step", BOUNDS(latency_bounds)},
    [METER_INFERENCE] = {"request_inference_time_seconds", "From the first step to the last",
                         BOUNDS(latency_bounds)},
    [METER_PREFILL] = {"request_prefill_time_seconds", "From the first step to the first token",
                       BOUNDS(latency_bounds)},
    [METER_DECODE] = {"request_decode_time_seconds", "From the first token to the last",
                      BOUNDS(latency_bounds)},
    [METER_PROMPT_TOKENS] = {"request_prompt_tokens", "Tokens of a prompt", BOUNDS(count_bounds)},
    [METER_GENERATION_TOKENS] = {"request_generation_tokens", "Tokens of an answer", BOUNDS(count_bounds)},
    [METER_LONGEST] = {"request_max_num_generation_tokens", "Tokens of the longest answer to a request",
                       BOUNDS(count_bounds)},
    [METER_COMPUTED_TOKENS] = {"request_prefill_kv_computed_tokens", "Tokens of a prompt that were computed",
                               BOUNDS(count_bounds)},
    [METER_N] = {"request_params_n", "Choices asked for", BOUNDS(few_bounds)},
    [METER_MAX_TOKENS] = {"request_params_max_tokens", "Tokens asked for", BOUNDS(count_bounds)},
};

/* Each number is counted by itself: a page that is written meanwhile may have one without the other. */
typedef struct histogram {
    _Atomic uint64_t counts[MAX_BUCKETS + 1]; /* by bound, not summed; last those above all */
    _Atomic double sum;
} histogram;

struct meters {
    histogram histograms[METER_HISTOGRAMS];
    _Atomic uint64_t ends[METER_ENDS];
    _Atomic uint64_t statuses[600]; /* of HTTP */
};

nib_status meters_open(meters **out, nib_error *err) {
    meters *m = *out = mem_array(1, sizeof *m);
    if (!m)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the server");
    return NIB_OK;
}

void meters_close(meters *m) {
    mem_free(m);
}

static void count(_Atomic uint64_t *n) {
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

void meters_observe(meters *m, meter which, double value) {
    histogram *h = &m->histograms[which];
    size_t i = 0;
    while (i < kinds[which].n && value > kinds[which].bounds[i])
        i++;
    count(&h->counts[i]);
    double sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&h->sum, &sum, sum + value, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

void meters_count_end(meters *m, meter_end how) {
    count(&m->ends[how]);
}

void meters_count_status(meters *m, int http_status) {
    if (http_status > 0 && http_status < 600)
        count(&m->statuses[http_status]);
}

/* ---- the text ---- */

typedef struct page {
    buf *out;
    char labels[640]; /* model_name="...",engine="0" */
} page;

static void make_labels(page *p, const server *s) {
    size_t n = (size_t)snprintf(p->labels, sizeof p->labels, "engine=\"0\",model_name=\"");
    for (const char *c = s->model_id; *c && n + 4 < sizeof p->labels; c++) {
        if (*c == '"' || *c == '\\')
            p->labels[n++] = '\\';
        p->labels[n++] = *c == '\n' ? ' ' : *c;
    }
    snprintf(p->labels + n, sizeof p->labels - n, "\"");
}

static void write_head(const page *p, const char *prefix, const char *name, const char *type,
                       const char *help) {
    buf_print(p->out, "# HELP %s:%s %s\n# TYPE %s:%s %s\n", prefix, name, help, prefix, name, type);
}

static void write_value(const page *p, const char *prefix, const char *name, const char *type,
                        const char *help, double value) {
    write_head(p, prefix, name, type, help);
    buf_print(p->out, "%s:%s{%s} %.17g\n", prefix, name, p->labels, value);
}

static void write_histogram(const page *p, meter which, const histogram *h) {
    const char *name = kinds[which].name;
    const size_t n = kinds[which].n;
    unsigned long long sum = 0;
    write_head(p, "vllm", name, "histogram", kinds[which].help);
    for (size_t i = 0; i < n; i++) {
        sum += h->counts[i];
        buf_print(p->out, "vllm:%s_bucket{%s,le=\"%g\"} %llu\n", name, p->labels, kinds[which].bounds[i],
                  sum);
    }
    sum += h->counts[n];
    buf_print(p->out, "vllm:%s_bucket{%s,le=\"+Inf\"} %llu\nvllm:%s_sum{%s} %.17g\nvllm:%s_count{%s} %llu\n",
              name, p->labels, sum, name, p->labels, h->sum, name, p->labels, sum);
}

static void write_label(const page *p, const char *name, const char *label, const char *value, uint64_t n) {
    buf_print(p->out, "%s{%s,%s=\"%s\"} %llu\n", name, p->labels, label, value, (unsigned long long)n);
}

/* vLLM's buckets: 1, 8, 16, 32 ... 16384 rows of a step. */
static void write_iterations(const page *p, const nib_stats *s) {
    unsigned long long sum = 0;
    write_head(p, "vllm", "iteration_tokens_total", "histogram", "Tokens that were computed in a step");
    for (int i = 0; i < NIB_STATS_ROWS; i++) {
        sum += s->steps_by_rows[i];
        if (i == NIB_STATS_ROWS - 1)
            buf_print(p->out, "vllm:iteration_tokens_total_bucket{%s,le=\"+Inf\"} %llu\n", p->labels, sum);
        else if (i == 0 || i > 2)
            buf_print(p->out, "vllm:iteration_tokens_total_bucket{%s,le=\"%d\"} %llu\n", p->labels, 1 << i,
                      sum);
    }
    buf_print(p->out,
              "vllm:iteration_tokens_total_sum{%s} %llu\nvllm:iteration_tokens_total_count{%s} %llu\n",
              p->labels, (unsigned long long)s->step_rows, p->labels, sum);
}

/* Sequences, and where they lie. */
static void write_sequences(const page *p, const nib_stats *s) {
    const double used = s->kv_pages ? 1 - (double)s->kv_pages_free / s->kv_pages : 0;
    write_value(p, "vllm", "num_requests_running", "gauge", "Sequences that are computed", s->running);
    write_value(p, "vllm", "num_requests_waiting", "gauge", "Sequences that wait", s->waiting);
    write_value(p, "vllm", "kv_cache_usage_perc", "gauge", "Pages in use, 0 to 1", used);
    write_head(p, "vllm", "num_requests_waiting_by_reason", "gauge", "For a place, or for another's prompt");
    write_label(p, "vllm:num_requests_waiting_by_reason", "reason", "capacity",
                (uint64_t)(s->waiting - s->waiting_for_twin));
    write_label(p, "vllm:num_requests_waiting_by_reason", "reason", "deferred",
                (uint64_t)s->waiting_for_twin);
    write_head(p, "vllm", "engine_sleep_state", "gauge", "1: it is so");
    write_label(p, "vllm:engine_sleep_state", "sleep_state", "awake", s->rest != NIB_REST_SLEEP);
    write_label(p, "vllm:engine_sleep_state", "sleep_state", "weights_offloaded", 0);
    write_label(p, "vllm:engine_sleep_state", "sleep_state", "discard_all", s->rest == NIB_REST_SLEEP);
}

static void write_tokens(const page *p, const nib_stats *s) {
    write_value(p, "vllm", "prompt_tokens_total", "counter", "Tokens of prompts", (double)s->prompt_tokens);
    write_head(p, "vllm", "prompt_tokens_by_source_total", "counter",
               "Tokens of prompts by where they came from");
    write_label(p, "vllm:prompt_tokens_by_source_total", "source", "local_compute",
                s->prompt_tokens - s->cached_prompt_tokens);
    write_label(p, "vllm:prompt_tokens_by_source_total", "source", "local_cache_hit",
                s->cached_prompt_tokens);
    write_value(p, "vllm", "prompt_tokens_cached_total", "counter", "Of these, found in the prefix cache",
                (double)s->cached_prompt_tokens);
    write_value(p, "vllm", "generation_tokens_total", "counter", "Tokens of answers",
                (double)s->generated_tokens);
    write_value(p, "vllm", "prefix_cache_queries_total", "counter", "Tokens looked for",
                (double)s->prefix_queries);
    write_value(p, "vllm", "prefix_cache_hits_total", "counter", "And found", (double)s->prefix_hits);
    write_value(p, "vllm", "num_preemptions_total", "counter", "Sequences put back", (double)s->preemptions);
}

static void write_guesses(const page *p, const nib_stats *s) {
    write_value(p, "vllm", "spec_decode_num_drafts_total", "counter", "Times that tokens were guessed ahead",
                (double)s->drafts);
    write_value(p, "vllm", "spec_decode_num_draft_tokens_total", "counter", "Tokens that were guessed",
                (double)s->guessed_tokens);
    write_value(p, "vllm", "spec_decode_num_accepted_tokens_total", "counter", "Guesses that were right",
                (double)s->right_guesses);
    write_head(p, "vllm", "spec_decode_num_accepted_tokens_per_pos_total", "counter",
               "Guesses that were right, by how far ahead");
    for (int i = 0; i < NIB_STATS_POSITIONS; i++)
        write_label(p, "vllm:spec_decode_num_accepted_tokens_per_pos_total", "position",
                    (char[]){(char)('0' + i), 0}, s->right_by_position[i]);
    write_value(p, "nibble", "draft_failures_total", "counter", "Steps in which the draft model failed",
                (double)s->draft_failures);
}

static void write_failures(const page *p, const nib_stats *s) {
    write_value(p, "vllm", "corrupted_requests_total", "counter",
                "Requests that failed as the network's output was not a number", (double)s->corrupted);
    write_head(p, "vllm", "admission_rejections_total", "counter", "Requests that were refused");
    write_label(p, "vllm:admission_rejections_total", "reason", "queue_full", s->refused);
}

static void write_llama_counts(const page *p, const nib_stats *s) {
    write_value(p, "llamacpp", "prompt_tokens_total", "counter", "Tokens of prompts that were computed",
                (double)(s->prompt_tokens - s->cached_prompt_tokens));
    write_value(p, "llamacpp", "tokens_predicted_total", "counter", "Tokens of answers",
                (double)s->generated_tokens);
    write_value(p, "llamacpp", "n_decode_total", "counter", "Steps", (double)s->steps);
    write_value(p, "llamacpp", "n_busy_slots_per_decode", "gauge", "Tokens of a step, on average",
                s->steps ? (double)s->step_rows / (double)s->steps : 0);
    write_value(p, "llamacpp", "requests_processing", "gauge", "Sequences that are computed", s->running);
    write_value(p, "llamacpp", "requests_deferred", "gauge", "Sequences that wait", s->waiting);
}

static void write_own(const page *p, const nib_stats *s) {
    write_value(p, "nibble", "steps_total", "counter", "Steps", (double)s->steps);
    write_value(p, "nibble", "step_rows_total", "counter", "Tokens that were computed in steps",
                (double)s->step_rows);
    write_value(p, "nibble", "step_seconds_total", "counter", "Time in steps", s->step_seconds);
    write_value(p, "nibble", "kv_pages", "gauge", "Pages of the KV cache", s->kv_pages);
    write_value(p, "nibble", "kv_pages_remembered", "gauge", "Free pages that serve the prefix cache",
                s->kv_pages_remembered);
}

static void write_engine(const page *p, const nib_stats *s) {
    write_sequences(p, s);
    write_tokens(p, s);
    write_guesses(p, s);
    write_failures(p, s);
    write_iterations(p, s);
    write_llama_counts(p, s);
    write_own(p, s);
}

static double rate(double n, double seconds) {
    return seconds > 0 ? n / seconds : 0;
}

/* llama.cpp's times, which are sums over requests. */
static void write_llama_times(const page *p, const meters *m) {
    const double prompt_s = m->histograms[METER_PREFILL].sum, answer_s = m->histograms[METER_DECODE].sum;
    write_value(p, "llamacpp", "prompt_seconds_total", "counter", "From the first step to the first token",
                prompt_s);
    write_value(p, "llamacpp", "tokens_predicted_seconds_total", "counter",
                "From the first token to the last", answer_s);
    write_value(p, "llamacpp", "prompt_tokens_seconds", "gauge", "Computed tokens of prompts per second",
                rate(m->histograms[METER_COMPUTED_TOKENS].sum, prompt_s));
    write_value(p, "llamacpp", "predicted_tokens_seconds", "gauge",
                "Tokens of answers per second, of one answer",
                rate(m->histograms[METER_GENERATION_TOKENS].sum, answer_s));
}

static void write_counts(const page *p, const meters *m) {
    static const char *const ends[METER_ENDS] = {"stop", "length", "abort", "error"};
    write_head(p, "vllm", "request_success_total", "counter", "Answers by how they ended");
    for (int i = 0; i < METER_ENDS; i++)
        write_label(p, "vllm:request_success_total", "finished_reason", ends[i], m->ends[i]);
    write_head(p, "nibble", "http_requests_total", "counter", "Answers by HTTP status");
    for (int i = 0; i < 600; i++)
        if (m->statuses[i])
            buf_print(p->out, "nibble:http_requests_total{%s,status=\"%d\"} %llu\n", p->labels, i,
                      (unsigned long long)m->statuses[i]);
}

/* Prometheus' own names; 0 pages where the system does not tell. */
static void write_process(const server *s, buf *out) {
    unsigned long long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &all, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    buf_print(
        out,
        "# HELP process_resident_memory_bytes Memory in use\n# TYPE process_resident_memory_bytes gauge\n"
        "process_resident_memory_bytes %llu\n"
        "# HELP process_start_time_seconds Since 1970\n# TYPE process_start_time_seconds gauge\n"
        "process_start_time_seconds %lld\n",
        resident * (unsigned long long)sysconf(_SC_PAGESIZE), s->created);
}

void meters_write(meters *m, server *s, buf *out) {
    page p = {.out = out};
    nib_stats stats = {.size = sizeof stats};
    if (nib_get_stats(s->engine, &stats, NULL) != NIB_OK) {
        out->failed = true;
        return;
    }
    make_labels(&p, s);
    write_engine(&p, &stats);
    write_value(&p, "nibble", "http_requests_running", "gauge", "Requests in the server",
                (double)live_count(s->live));
    write_head(&p, "vllm", "cache_config_info", "gauge", "How the KV cache is laid out");
    buf_print(out, "vllm:cache_config_info{%s,block_size=\"64\",num_gpu_blocks=\"%d\"} 1\n", p.labels,
              stats.kv_pages);
    write_counts(&p, m);
    write_llama_times(&p, m);
    write_process(s, out);
    for (int i = 0; i < METER_HISTOGRAMS; i++)
        write_histogram(&p, (meter)i, &m->histograms[i]);
}
