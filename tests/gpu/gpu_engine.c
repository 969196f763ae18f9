/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole engine on a GPU, through nibble.h: greedy texts against the CPU's, requests beside each other,
 * cancels in every phase, no memory, a killed process, 10,000 steps without growth.
 *
 * usage: gpu_engine [MODEL]...   (none: a tiny golden one; run from the root of the repository)
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "nibble.h"

enum { PROMPTS = 200, ANSWER = 16, SOAK_STEPS = 10000, STREAMS = 16, SNIPPET = 120 };
#define TIE 2e-3f /* of the two largest log-probabilities: the CPU's and the GPU's sums differ by less */

/* The same with BF16 activations: they turn a rounding of FP8 here and there, which moves as much as all of
 * FP8, and that moved the largest gap of 200 answers of the tiny network by 2.4 (5 of them by more than
 * this). */
#define NEAR 1.0f

static int checks, failed;

#define CHECK(ok, ...)                                                                                       \
    do {                                                                                                     \
        checks++;                                                                                            \
        if (!(ok)) {                                                                                         \
            failed++;                                                                                        \
            printf("WRONG " __VA_ARGS__);                                                                    \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

typedef struct prompt {
    int32_t *ids;
    size_t n;
} prompt;

typedef struct answer {
    int32_t tokens[ANSWER];
    float gap[ANSWER]; /* between the two most probable tokens */
    int n;
    nib_end_reason reason;
} answer;

static prompt prompts[PROMPTS];

static nib_engine *open_engine(const char *model, const char *device, nib_activations a, nib_kv_dtype kv,
                               int max_num_seqs, int batched) {
    nib_engine *e = NULL;
    nib_error err;
    nib_options o = {.size = sizeof o,
                     .device = device,
                     .activations = a,
                     .kv_cache = kv,
                     .max_num_seqs = max_num_seqs,
                     .max_num_batched_tokens = batched};
    if (nib_open(&e, model, &o, &err) != NIB_OK) {
        printf("WRONG opening %s on %s: %s\n", model, device, err.text);
        exit(1);
    }
    return e;
}

static nib_request *submit(nib_engine *e, const prompt *p, int max_tokens) {
    nib_request *r = NULL;
    nib_error err;
    nib_request_options o = {.size = sizeof o,
                             .prompt = p->ids,
                             .n_prompt = p->n,
                             .max_tokens = max_tokens,
                             .ignore_eos = true,
                             .top_logprobs = 2,
                             .logprobs = true,
                             .no_prefix_cache = true};
    if (nib_submit(e, &o, &r, &err) != NIB_OK) {
        printf("WRONG submitting: %s\n", err.text);
        exit(1);
    }
    return r;
}

/* Reads R to its end, or to UNTIL tokens (then cancels it). */
static answer finish(nib_request *r, int until) {
    answer a = {.n = 0};
    nib_event ev = {.size = sizeof ev};
    nib_error err;
    while (nib_next_event(r, &ev, 60000, &err) == NIB_OK && ev.kind == NIB_EVENT_TOKEN) {
        if (a.n < ANSWER) {
            a.tokens[a.n] = ev.token;
            a.gap[a.n] = ev.n_top == 2 ? ev.top[0].logprob - ev.top[1].logprob : INFINITY;
        }
        if (++a.n == until)
            nib_cancel(r);
    }
    a.reason = ev.kind == NIB_EVENT_END ? ev.reason : NIB_END_FAILED;
    nib_release(r);
    return a;
}

static void answer_all(nib_engine *e, int n, answer *out) {
    nib_request *r[PROMPTS];
    for (int i = 0; i < n; i++)
        r[i] = submit(e, &prompts[i], ANSWER);
    for (int i = 0; i < n; i++)
        out[i] = finish(r[i], 0);
}

/* Counts answers that part; where they do, A's choice must have been a close one, in all but SPARE of them.
 * How far predictions are from each other, scripts/gpu-check asks. */
static void compare(const char *what, const answer *a, const answer *b, int n, float tie, int spare) {
    int same = 0, ties = 0, clear = 0;
    float widest = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        CHECK(a[i].n == ANSWER && b[i].n == ANSWER && a[i].reason == NIB_END_LENGTH,
              "%s: prompt %d: %d and %d tokens", what, i, a[i].n, b[i].n);
        while (k < ANSWER && a[i].tokens[k] == b[i].tokens[k])
            k++;
        same += k == ANSWER;
        ties += k < ANSWER && a[i].gap[k] <= tie;
        widest = k < ANSWER ? fmaxf(widest, a[i].gap[k]) : widest;
        clear += k < ANSWER && a[i].gap[k] > tie;
        CHECK(clear <= spare || k == ANSWER || a[i].gap[k] <= tie,
              "%s: prompt %d parts at token %d, where the choice was clear by %.2e", what, i, k,
              (double)a[i].gap[k]);
    }
    printf("%s: %d of %d answers equal, %d part at a tie, %d where the choice was clear, the widest %.2e\n",
           what, same, n, ties, clear, (double)widest);
}

static void read_prompts(nib_engine *e) {
    static char text[1 << 16];
    FILE *f = fopen("src/eval/calibration_text.txt", "rb");
    size_t bytes = f ? fread(text, 1, sizeof text, f) : 0, step = (bytes - SNIPPET) / PROMPTS;
    nib_error err;
    if (bytes < 4096) {
        printf("WRONG src/eval/calibration_text.txt is not there: run from the root of the repository\n");
        exit(1);
    }
    fclose(f);
    for (int i = 0; i < PROMPTS; i++) {
        nib_free(prompts[i].ids);
        if (nib_tokenize(e, text + (size_t)i * step, SNIPPET / 2 + (size_t)i % (SNIPPET / 2),
                         NIB_TOKENIZE_NO_SPECIAL, &prompts[i].ids, &prompts[i].n, &err) != NIB_OK) {
            printf("WRONG tokenizing: %s\n", err.text);
            exit(1);
        }
    }
}

static void cancels(const char *model) {
    nib_engine *e = open_engine(model, "cuda", NIB_ACTIVATIONS_AUTO, NIB_KV_FP8, 1, 16);
    nib_info info = {.size = sizeof info};
    nib_error err;
    nib_get_info(e, &info, &err);
    size_t most = (size_t)(info.max_model_len < 600 ? info.max_model_len : 600) - 100;
    prompt longest = {malloc(most * sizeof(int32_t)), most};
    for (size_t i = 0; i < longest.n; i++)
        longest.ids[i] = prompts[i % PROMPTS].ids[i % prompts[i % PROMPTS].n];
    answer before = finish(submit(e, &prompts[0], ANSWER), 0);
    nib_request *running = submit(e, &longest, 100), *waiting = submit(e, &prompts[1], ANSWER);
    nib_cancel(waiting);
    CHECK(finish(waiting, 0).reason == NIB_END_CANCELLED, "a cancel while waiting");
    nib_cancel(running);
    CHECK(finish(running, 0).reason == NIB_END_CANCELLED, "a cancel while the prompt is read");
    CHECK(finish(submit(e, &prompts[2], 200), 3).reason == NIB_END_CANCELLED, "a cancel while answering");
    for (int i = 0; i < 50; i++) { /* anywhere */
        nib_request *r = submit(e, i % 2 ? &longest : &prompts[i], 50);
        nanosleep(&(struct timespec){.tv_nsec = i * 37000}, NULL);
        nib_cancel(r);
        answer a = finish(r, 0);
        CHECK(a.reason == NIB_END_CANCELLED || a.reason == NIB_END_LENGTH, "cancel %d ends as %d", i,
              a.reason);
    }
    answer after = finish(submit(e, &prompts[0], ANSWER), 0);
    CHECK(memcmp(before.tokens, after.tokens, sizeof before.tokens) == 0, "an answer after cancels");
    free(longest.ids);
    nib_close(e);
}

static size_t free_memory(void) {
    size_t n = 0, total;
    cudaMemGetInfo(&n, &total);
    return n;
}

static void no_memory(const char *model) {
    enum { MOST = 64 };
    void *taken[MOST] = {NULL};
    int n = 0;
    nib_engine *e = NULL;
    nib_error err = {""};
    nib_options o = {.size = sizeof o, .device = "cuda"};
    for (size_t bytes = free_memory(); bytes > (1 << 20) && n < MOST;) /* all there is */
        if (cudaMalloc(&taken[n], bytes) == cudaSuccess)
            n++;
        else
            bytes /= 2;
    cudaGetLastError();
    nib_status status = nib_open(&e, model, &o, &err);
    CHECK(status == NIB_NO_MEMORY && strstr(err.text, "MB"), "without memory: status %d, '%s'", status,
          err.text);
    printf("without memory: %s\n", err.text);
    nib_close(e);
    while (n > 0)
        cudaFree(taken[--n]);
    nib_close(open_engine(model, "cuda", NIB_ACTIVATIONS_AUTO, NIB_KV_FP8, 0, 0)); /* and then it opens */
}

/* A process of its own that is killed while it computes. */
static void killed(const char *self, const char *model) {
    size_t before = free_memory();
    int pipes[2];
    char ready;
    if (pipe(pipes) != 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 1);
        execl(self, self, "--victim", model, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    CHECK(read(pipes[0], &ready, 1) == 1 && ready == '!', "the process to be killed did not start");
    CHECK(free_memory() + (16 << 20) < before, "the process to be killed holds no memory");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(pipes[0]);
    for (int i = 0; i < 50 && free_memory() + (4 << 20) < before; i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    CHECK(free_memory() + (4 << 20) >= before, "a killed process left %.1f MB",
          (double)(before - free_memory()) / 1e6);
}

static int victim(const char *model) {
    nib_engine *e = open_engine(model, "cuda", NIB_ACTIVATIONS_AUTO, NIB_KV_FP8, 0, 0);
    prompt p = {(int32_t[]){1, 2, 3}, 3};
    if (write(1, "!", 1) != 1)
        return 1;
    for (;;)
        finish(submit(e, &p, ANSWER), 0);
}

static long resident_pages(void) {
    long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &all, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return resident;
}

/* Processes that compute on GPUs, this one too; below 1: nvidia-smi does not say. */
static int count_processes(void) {
    FILE *f = popen("nvidia-smi --query-compute-apps=pid --format=csv,noheader", "r");
    char line[256];
    int n = 0;
    while (f && fgets(line, sizeof line, f))
        n++;
    return f && pclose(f) == 0 ? n : 0;
}

static void soak(const char *model) {
    nib_engine *e = open_engine(model, "cuda", NIB_ACTIVATIONS_AUTO, NIB_KV_FP8, STREAMS, 64);
    nib_stats s = {.size = sizeof s};
    nib_error err;
    size_t before = 0;
    long pages = 0;
    uint64_t first = 0;
    for (int round = 0; s.steps < first + SOAK_STEPS; round++) {
        nib_request *r[STREAMS + 4];
        for (int i = 0; i < STREAMS + 4; i++)
            r[i] = submit(e, &prompts[(round * 7 + i) % PROMPTS], 40 + (round * 13 + i * 5) % 60);
        for (int i = 0; i < STREAMS + 4; i++)
            CHECK(finish(r[i], i == 3 ? 9 : 0).reason != NIB_END_FAILED, "soak, round %d: a request failed",
                  round);
        nib_get_stats(e, &s, &err);
        if (round == 25) { /* everything that grows with use has grown, recorded steps last */
            before = free_memory();
            pages = resident_pages();
            first = s.steps;
        }
        if (round % 10 == 5)
            printf("round %d: %.1f MB free\n", round, (double)free_memory() / 1e6);
    }
    double gone = ((double)before - (double)free_memory()) / 1e6,
           grown = (double)(resident_pages() - pages) * 4096 / 1e6;
    printf("%llu steps: GPU memory %+.1f MB, process %+.1f MB\n", (unsigned long long)(s.steps - first),
           -gone, grown);
    const int others = count_processes();
    if (others > 1)
        printf("SKIP: %d processes are on the GPUs: whose memory is gone cannot be told\n", others);
    else
        CHECK(gone < 8, "%.1f MB of GPU memory are gone after %d steps", gone, SOAK_STEPS);
    CHECK(grown < 16, "the process grew by %.1f MB in %d steps", grown, SOAK_STEPS);
    nib_close(e);
}

static void test_model(const char *self, const char *model) {
    static answer host[PROMPTS], gpu[PROMPTS], alone[STREAMS];
    printf("%s\n", model);
    nib_engine *e = open_engine(model, "cpu", NIB_ACTIVATIONS_F32, NIB_KV_FP32, STREAMS, 256);
    read_prompts(e);
    answer_all(e, PROMPTS, host);
    nib_close(e);
    e = open_engine(model, "cuda", NIB_ACTIVATIONS_F32, NIB_KV_FP32, STREAMS, 256);
    answer_all(e, PROMPTS, gpu);
    compare("exact, GPU and CPU", host, gpu, PROMPTS, TIE, 0);
    for (int i = 0; i < STREAMS; i++)
        alone[i] = finish(submit(e, &prompts[i], ANSWER), 0);
    compare("exact, beside others and alone", gpu, alone, STREAMS, TIE, 0);
    nib_close(e);
    e = open_engine(model, "cuda", NIB_ACTIVATIONS_AUTO, NIB_KV_FP8, STREAMS, 256);
    answer_all(e, PROMPTS, gpu);
    nib_close(e);
    e = open_engine(model, "cpu", NIB_ACTIVATIONS_F32, NIB_KV_FP8, STREAMS, 256);
    answer_all(e, PROMPTS, host);
    compare("fastest mode and fp8 cache, GPU, and the CPU's exact with such a cache", host, gpu, PROMPTS,
            NEAR, PROMPTS / 20);
    nib_close(e);
    cancels(model);
    no_memory(model);
    killed(self, model);
    soak(model);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 3 && strcmp(argv[1], "--victim") == 0)
        return victim(argv[2]);
    if (cudaSetDevice(0) != cudaSuccess) {
        printf("WRONG no GPU\n");
        return 1;
    }
    for (int i = 1; i < argc; i++)
        test_model(argv[0], argv[i]);
    if (argc == 1)
        test_model(argv[0], "tests/golden/models/llama-words");
    printf("engine: %d checks, %d wrong\n", checks, failed);
    return failed > 0;
}
