/* SPDX-License-Identifier: Apache-2.0
 *
 * The flags that choose how a model computes, shared by run, eval and bench. See cli.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum {
    KEY_ACTIVATIONS = 0x2000,
    KEY_KV,
    KEY_CPU_FEATURES,
    KEY_MODEL_LEN,
    KEY_DEVICE,
    KEY_SPECULATE,
    KEY_DRAFT,
    KEY_GPU_MEMORY,
    KEY_EAGER
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "How it computes:", 10},
    {"device", KEY_DEVICE, "auto|cpu|cuda[:N]", 0,
     "Where it computes: auto is the first GPU that there is, else the CPU", 0},
    {"cpu-features", KEY_CPU_FEATURES, "MASK", 0,
     "Use no more than these CPU features: scalar, avx2, avx512, avx512-vnni, or a number", 0},
    {"max-model-len", KEY_MODEL_LEN, "N", 0,
     "Tokens of one sequence, prompt and answer; no more than the model's (default: the model's, at most "
     "4096)",
     0},
    {"gpu-memory-utilization", KEY_GPU_MEMORY, "SHARE", 0,
     "Of a GPU's free memory, for weights, buffers and KV pages together (default 0.9)", 0},
    {"enforce-eager", KEY_EAGER, NULL, 0, "On a GPU: without CUDA graphs, which is slower", 0},
    {0}};

static const struct argp_option format_options[] = {
    {"activations", KEY_ACTIVATIONS, "auto|f32|int8|bf16|fp8|fp4", 0,
     "What the weights are multiplied with: f32 is exact; int8 is fast on a CPU, bf16 and fp8 are on a GPU "
     "(auto: int8 or bf16)",
     10},
    {"kv-cache-dtype", KEY_KV, "bf16|fp8|fp32", 0,
     "How keys and values are stored (default bf16, on a GPU fp8)", 10},
    {0}};

static const struct argp_option threads_options[] = {
    {"threads", 't', "N", 0, "Threads (default: one per physical core)", 10}, {0}};

static const struct argp_option speculate_options[] = {
    {"speculate", KEY_SPECULATE, "off|lookup", 0,
     "Guess what comes next from what stood in the text before, where that is faster; the answer stays the "
     "same "
     "(default off)",
     10},
    {"draft", KEY_DRAFT, "MODEL", 0, "Let a smaller model of the same words guess", 10},
    {0}};

/* In the order of the enums in nibble.h. */
static const char *const speculate_names[] = {"off", "lookup", NULL};
static const char *const activation_names[] = {"auto", "f32", "int8", "bf16", "fp8", "fp4", NULL};
static const char *const kv_names[] = {"auto", "bf16", "fp8", "fp32", NULL};

static const struct {
    const char *name;
    unsigned bit;
} rungs[] = {{"scalar", NIB_CPU_SCALAR},
             {"avx2", NIB_CPU_AVX2},
             {"avx512", NIB_CPU_AVX512},
             {"avx512-vnni", NIB_CPU_AVX512_VNNI}};

static unsigned rung_mask(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof rungs / sizeof *rungs; i++)
        if (strlen(rungs[i].name) == n && memcmp(rungs[i].name, name, n) == 0)
            return rungs[i].bit | (rungs[i].bit - 1);
    return 0;
}

bool cli_cpu_mask(const char *text, unsigned *mask) {
    long long number;
    if (cli_integer(text, 1, NIB_CPU_ALL, &number)) {
        *mask = (unsigned)number;
        return true;
    }
    *mask = 0;
    for (const char *p = text;;) {
        size_t n = strcspn(p, ",");
        unsigned bits = rung_mask(p, n);
        if (!bits)
            return false;
        *mask |= bits;
        if (!p[n])
            return true;
        p += n + 1;
    }
}

const char *cli_kv_name(nib_kv_dtype dtype) {
    return kv_names[dtype == NIB_KV_AUTO ? NIB_KV_BF16 : dtype];
}

const char *cli_activations_name(nib_activations a) {
    return activation_names[a == NIB_ACTIVATIONS_AUTO ? NIB_ACTIVATIONS_INT8 : a];
}

static error_t parse_formats(int key, char *arg, struct argp_state *state) {
    nib_options *o = state->input;
    if (key == KEY_ACTIVATIONS)
        o->activations = (nib_activations)cli_choice_flag(state, "--activations", arg, activation_names);
    else if (key == KEY_KV)
        o->kv_cache = (nib_kv_dtype)(1 + cli_choice_flag(state, "--kv-cache-dtype", arg, kv_names + 1));
    else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

/* The form; which GPUs there are is asked later. */
static bool names_device(const char *arg) {
    const bool numbered =
        strncmp(arg, "cuda:", 5) == 0 && arg[5] && strspn(arg + 5, "0123456789,") == strlen(arg + 5);
    return numbered || strcmp(arg, "auto") == 0 || strcmp(arg, "cpu") == 0 || strcmp(arg, "cuda") == 0;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    nib_options *o = state->input;
    switch (key) {
    case KEY_DEVICE:
        if (!names_device(arg))
            argp_error(state, "device '%s'; expected auto, cpu, cuda or cuda:0", arg);
        o->device = arg;
        return 0;
    case KEY_CPU_FEATURES: {
        unsigned mask = 0;
        if (!cli_cpu_mask(arg, &mask))
            argp_error(state,
                       "--cpu-features takes names of scalar, avx2, avx512, avx512-vnni with commas "
                       "between them, or a number from 1 to %u, not '%s'",
                       NIB_CPU_ALL, arg);
        o->cpu_features = mask;
        return 0;
    }
    case KEY_MODEL_LEN:
        o->max_model_len = (int)cli_integer_flag(state, "--max-model-len", arg, 16, 1 << 20);
        return 0;
    case KEY_GPU_MEMORY:
        o->gpu_memory_utilization = (float)cli_real_flag(state, "--gpu-memory-utilization", arg, 0.01, 1);
        return 0;
    case KEY_EAGER:
        o->enforce_eager = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_threads(int key, char *arg, struct argp_state *state) {
    if (key != 't')
        return ARGP_ERR_UNKNOWN;
    ((nib_options *)state->input)->threads =
        (int)cli_integer_flag(state, "--threads", arg, 1, CLI_MAX_THREADS);
    return 0;
}

static error_t parse_speculate(int key, char *arg, struct argp_state *state) {
    nib_options *o = state->input;
    switch (key) {
    case KEY_SPECULATE:
        o->speculate = (nib_speculate)cli_choice_flag(state, "--speculate", arg, speculate_names);
        return 0;
    case KEY_DRAFT:
        o->draft = arg;
        return 0;
    case ARGP_KEY_END:
        if (o->draft && o->speculate != NIB_SPECULATE_OFF)
            argp_error(state, "--draft and --speculate %s are two ways to guess; expected one of them",
                       speculate_names[o->speculate]);
        if (o->draft)
            o->speculate = NIB_SPECULATE_DRAFT;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_with_one(int key, char *arg, struct argp_state *state) {
    if (key != ARGP_KEY_INIT)
        return parse(key, arg, state);
    state->child_inputs[0] = state->input;
    return 0;
}

static error_t parse_with_two(int key, char *arg, struct argp_state *state) {
    if (key == ARGP_KEY_INIT)
        state->child_inputs[1] = state->input;
    return parse_with_one(key, arg, state);
}

static const struct argp formats_argp = {.options = format_options, .parser = parse_formats};
static const struct argp threads_argp = {.options = threads_options, .parser = parse_threads};
static const struct argp_child with_both[] = {{&formats_argp, 0, NULL, 0}, {&threads_argp, 0, NULL, 0}, {0}};
static const struct argp_child with_formats[] = {{&formats_argp, 0, NULL, 0}, {0}};
static const struct argp_child with_threads[] = {{&threads_argp, 0, NULL, 0}, {0}};
const struct argp cli_compute_argp = {.options = options, .parser = parse_with_two, .children = with_both};
const struct argp cli_compute_no_threads_argp = {
    .options = options, .parser = parse_with_one, .children = with_formats};
const struct argp cli_device_argp = {.options = options, .parser = parse_with_one, .children = with_threads};
const struct argp cli_speculate_argp = {.options = speculate_options, .parser = parse_speculate};
