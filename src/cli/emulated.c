/* SPDX-License-Identifier: Apache-2.0
 *
 * See emulated.h. A GPU's own fp8 and fp4 are computed where the GPU is asked for by name; without that the
 * figures do not depend on the machine.
 */
#include "cli/emulated.h"

#include <string.h>

#include "cli/cli.h"

enum { KEY_ACTIVATIONS = 0x4000, KEY_KV, KEY_ROTATE };
enum {
    MAX_ORDER = 1024,
    WHOLE_HEAD = 2 * MAX_ORDER
}; /* of a Hadamard matrix: no head is larger than MAX_ORDER */

static const struct argp_option options[] = {
    {"activations", KEY_ACTIVATIONS, "auto|f32|int8|bf16|fp8|nvfp4|nvfp4-4over6|nvfp4-clamp|mxfp4", 0,
     "What the weights are multiplied with: f32 is exact; int8 is a CPU's fast way (auto). The "
     "formats behind are emulated exactly on the CPU: rounded by the format's own encoder, row by row, or "
     "under the "
     "file's input_scale, then multiplied exactly; under --device cuda, bf16, fp8 and nvfp4 are the GPU's "
     "own",
     10},
    {"kv-cache-dtype", KEY_KV, "bf16|fp8|fp32|nvfp4", 0,
     "How keys and values are stored (default bf16, on a GPU fp8); nvfp4 is emulated on the CPU", 10},
    {"rotate-qk", KEY_ROTATE, "N", OPTION_ARG_OPTIONAL,
     "Balance the channels of queries and keys and turn them by a Hadamard matrix of order N, a power of two "
     "that divides a head's size (default: the largest), before keys are stored, which changes no score but "
     "spreads what stands out (with --kv-cache-dtype nvfp4)",
     10},
    {0}};

static const struct {
    const char *name;
    nib_activations device;
    cpu_rounding rounding;
} activations[] = {{"auto", NIB_ACTIVATIONS_AUTO, CPU_ROUND_NONE},
                   {"f32", NIB_ACTIVATIONS_F32, CPU_ROUND_NONE},
                   {"int8", NIB_ACTIVATIONS_INT8, CPU_ROUND_NONE},
                   {"bf16", NIB_ACTIVATIONS_BF16, CPU_ROUND_NONE},
                   {"fp8", NIB_ACTIVATIONS_FP8, CPU_ROUND_FP8},
                   {"nvfp4", NIB_ACTIVATIONS_FP4, CPU_ROUND_NVFP4},
                   {"nvfp4-4over6", NIB_ACTIVATIONS_F32, CPU_ROUND_4OVER6},
                   {"nvfp4-clamp", NIB_ACTIVATIONS_F32, CPU_ROUND_CLAMP},
                   {"mxfp4", NIB_ACTIVATIONS_F32, CPU_ROUND_MXFP4},
                   {"fp4", NIB_ACTIVATIONS_FP4, CPU_ROUND_NVFP4}};
enum { N_ACTIVATIONS = sizeof activations / sizeof *activations };

/* In the order of nib_kv_dtype from BF16 on, then what is emulated. */
static const char *const kv_names[] = {"bf16", "fp8", "fp32", "nvfp4", NULL};

static void set_activations(emulated *e, const struct argp_state *state, const char *arg) {
    const char *names[N_ACTIVATIONS + 1] = {NULL};
    for (int i = 0; i < N_ACTIVATIONS; i++)
        names[i] = activations[i].name;
    const int i = cli_choice_flag(state, "--activations", arg, names);
    e->options.activations = activations[i].device;
    e->rounding = activations[i].rounding;
}

static void set_kv(emulated *e, const struct argp_state *state, const char *arg) {
    const int i = cli_choice_flag(state, "--kv-cache-dtype", arg, kv_names);
    e->round_kv = kv_names[i + 1] == NULL;
    e->options.kv_cache = e->round_kv ? NIB_KV_FP32 : (nib_kv_dtype)(NIB_KV_BF16 + i);
}

/* What contradicts itself, and which of the two computes. */
static void settle(emulated *e, const struct argp_state *state) {
    const char *device = e->options.device ? e->options.device : "auto";
    const bool on_gpu = strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0; /* or no device at all */
    if (e->rotate_qk && !e->round_kv)
        argp_error(state, "--rotate-qk belongs to --kv-cache-dtype nvfp4");
    if (on_gpu && (e->round_kv || e->rounding > CPU_ROUND_NVFP4))
        argp_error(state, "%s is emulated on the CPU; --device %s computes other formats",
                   e->round_kv                       ? "--kv-cache-dtype nvfp4"
                   : e->rounding == CPU_ROUND_4OVER6 ? "--activations nvfp4-4over6"
                   : e->rounding == CPU_ROUND_CLAMP  ? "--activations nvfp4-clamp"
                                                     : "--activations mxfp4",
                   device);
    if (on_gpu)
        e->rounding = CPU_ROUND_NONE;
    if (e->round_kv && !e->rounding && e->options.activations > NIB_ACTIVATIONS_F32)
        argp_error(state, "--kv-cache-dtype nvfp4 is emulated with --activations f32, fp8, nvfp4 or mxfp4");
    if (e->round_kv || e->rounding) {
        e->options.activations = NIB_ACTIVATIONS_F32;
        e->options.device = "cpu";
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    emulated *e = state->input;
    const char *order;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &e->options;
        return 0;
    case KEY_ACTIVATIONS:
        set_activations(e, state, arg);
        return 0;
    case KEY_KV:
        set_kv(e, state, arg);
        return 0;
    case KEY_ROTATE:
        order = cli_optional_number(state, arg);
        e->rotate_qk = order ? (int)cli_integer_flag(state, "--rotate-qk", order, 2, MAX_ORDER) : WHOLE_HEAD;
        if (e->rotate_qk & (e->rotate_qk - 1))
            argp_error(state, "--rotate-qk takes a power of two, not '%s'", order);
        return 0;
    case ARGP_KEY_END:
        settle(e, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&cli_device_argp, 0, NULL, 0}, {0}};
const struct argp emulated_argp = {.options = options, .parser = parse, .children = children};

nib_status emulated_backend(backend **out, const emulated *e, nib_error *err) {
    *out = NULL;
    if (!e->rounding && !e->round_kv)
        return NIB_OK;
    return cpu_open(out,
                    &(cpu_options){.threads = e->options.threads,
                                   .features = e->options.cpu_features,
                                   .activations = NIB_ACTIVATIONS_F32,
                                   .rounding = e->rounding,
                                   .round_kv = e->round_kv,
                                   .qk_rotation = e->rotate_qk},
                    err);
}

nib_status emulated_check(const emulated *e, const loaded *l, nib_error *err) {
    const int dim = l->file->hp.head_dim;
    if (e->rotate_qk && e->rotate_qk != WHOLE_HEAD && dim % e->rotate_qk != 0)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "--rotate-qk=%d does not divide the heads' size of %s, which is %d; expected %d or less",
            e->rotate_qk, l->file->path, dim, dim & -dim);
    return NIB_OK;
}

int emulated_order(const emulated *e, const loaded *l) {
    const int dim = l->file->hp.head_dim, most = dim & -dim;
    return e->rotate_qk < most ? e->rotate_qk : most;
}

const char *emulated_activations_name(const emulated *e, const loaded *l) {
    for (int i = 0; e->rounding && i < N_ACTIVATIONS; i++)
        if (activations[i].rounding == e->rounding)
            return activations[i].name;
    return cli_activations_name(l->options.activations);
}

const char *emulated_kv_name(const emulated *e, const loaded *l) {
    return e->rotate_qk ? "nvfp4-rotated" : e->round_kv ? "nvfp4" : cli_kv_name(l->options.kv_cache);
}
