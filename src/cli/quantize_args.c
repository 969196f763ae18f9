/* SPDX-License-Identifier: Apache-2.0
 *
 * See quantize_args.h.
 */
#include "cli/quantize_args.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/plan.h"

static const char *const formats[] = {"nvfp4", "mxfp4", "fp8", "q5_0", "q8_0", "bf16", NULL};
static const char *const methods[] = {"auto",  "rtn",  "sweep", "4over6", "weighted",
                                      "local", "gptq", "best",  NULL};
static const char *const embeddings[] = {"auto", "bf16", "f32", NULL};
static const char *const heads[] = {"keep", "nvfp4", "fp8", "q5_0", "q8_0", NULL};

enum {
    KEY_FORMAT = 0x3000,
    KEY_METHOD,
    KEY_CALIB,
    KEY_CALIB_TOKENS,
    KEY_FP8_EXACT,
    KEY_HEAD,
    KEY_EMBEDDING,
    KEY_KEEP,
    KEY_COMPRESSED,
    KEY_IMATRIX,
    KEY_BITS,
    KEY_SIZE,
    KEY_APART,
    KEY_PLAN,
    KEY_SAVE_PLAN,
    KEY_SMOOTH,
    KEY_SVD_RANK,
    KEY_INPUT_SCALE,
    KEY_KV_SCALES,
    KEY_JSON
};

static const struct argp_option options[] = {
    {"format", KEY_FORMAT, "nvfp4|mxfp4|fp8|q5_0|q8_0|bf16", 0,
     "What the linear layers become: nvfp4 (default), mxfp4, fp8 (a directory's), q5_0 and q8_0 (a .gguf "
     "file's) or bf16",
     1},
    {"method", KEY_METHOD, "auto|rtn|sweep|4over6|weighted|local|gptq|best", 0,
     "How block scales are chosen: rtn (largest magnitude), sweep (least squared error), 4over6, weighted "
     "(error weighted with what the inputs look like in a calibration text), local (codes too, by how the "
     "inputs of a block go together), gptq or best (codes chosen layer by layer: minutes), or auto "
     "(default): gptq where the linear layers have at most "
     "150 million weights and become nvfp4 or q5_0, else weighted, and sweep where nibble cannot run the "
     "model",
     1},
    {"calib", KEY_CALIB, "FILE", 0,
     "What to calibrate with: a text, or conversations in a .jsonl file, where the model first answers those "
     "that end with a question, and the text inside the program is read as well (default: that text; for "
     "--method best also what the model, where it has a chat template and at most a billion weights in "
     "linear "
     "layers, answers to questions inside the program)",
     1},
    {"calib-tokens", KEY_CALIB_TOKENS, "N", 0, "Its first N tokens at most (default: 49152)", 1},
    {"fp8-exact", KEY_FP8_EXACT, NULL, 0,
     "Block scales of which every product with an FP4 value is an FP8 value, so that engines that compute in "
     "FP8 lose nothing (nvfp4; not for rtn and 4over6)",
     1},
    {"head", KEY_HEAD, "keep|nvfp4|fp8|q5_0|q8_0", 0,
     "The output layer: keep (default), nvfp4, fp8 (a directory's), q5_0 or q8_0 (a .gguf file's). Where it "
     "is the embedding too, a GGUF file's one tensor is quantized as both",
     1},
    {"embedding", KEY_EMBEDDING, "auto|bf16|f32", 0,
     "The token embedding: bf16, f32, or auto (default): as it is stored, and where a directory cannot hold "
     "a GGUF file's blocks, bf16",
     1},
    {"keep", KEY_KEEP, "GLOB", 0, "Leave tensors of this name as they are; may be given again", 1},
    {"input-scale", KEY_INPUT_SCALE, "ROOM", 0,
     "Beside every layer in NVFP4 or FP8 a static scale of its inputs, for engines that round activations "
     "and "
     "find no scale by themselves: ROOM (1 to 64) times what the largest input of a calibration needs",
     1},
    {"kv-scales", KEY_KV_SCALES, NULL, 0,
     "In a directory: beside every k and v the scale of an FP8 cache, by the largest key and value of a "
     "calibration (nibble's own caches are better without: they find a scale for each vector)",
     1},
    {"imatrix", KEY_IMATRIX, "FILE", 0,
     "In place of a calibration a file of nibble calibrate, for --method weighted and local, --input-scale "
     "and --kv-scales, or of llama.cpp, for weighted",
     1},
    {"bits", KEY_BITS, "BITS", 0,
     "Bits per weight that the linear layers may take together, 4.5 (NVFP4) to 16: those whose loss costs "
     "the predictions most become FP8 or BF16 (in a .gguf file Q5_0, Q8_0, then BF16 or as stored); minutes",
     1},
    {"size", KEY_SIZE, "BYTES", 0,
     "In place of --bits: how large the output may become, 1000000 and more, or with MB, GB, MiB or GiB "
     "behind",
     1},
    {"apart", KEY_APART, NULL, 0,
     "With --bits and --size: q, k and v of a layer may differ, and gate and up; better, but engines that "
     "join them into one matrix refuse such a directory, and GPUs run such a .gguf file slower",
     1},
    {"save-plan", KEY_SAVE_PLAN, "FILE", 0, "Write what --bits or --size chose, JSON that can be edited", 1},
    {"plan", KEY_PLAN, "FILE", 0,
     "The linear layers' formats, as --save-plan writes them: nvfp4, fp8, q5_0, q8_0, bf16 or keep; nvfp4 "
     "where it names none",
     1},
    {"smooth", KEY_SMOOTH, NULL, 0,
     "First move what makes channels larger than others from the norms into the matrices that read them, by "
     "powers of two and as far as it helps NVFP4 weights and activations; with --format bf16 no more than "
     "that. For activations in NVFP4; and for weights, with a calibration text of one's own",
     1},
    {"svd-rank", KEY_SVD_RANK, "R", 0,
     "Beside every layer that becomes nvfp4 a low-rank branch in BF16 (SVDQuant), 1 to 256: R more numbers a "
     "row and a column; with --method gptq (then the default) or best. nibble's engines run it, "
     "other programs refuse the file",
     1},
    {"compressed-tensors", KEY_COMPRESSED, NULL, 0, "Write a directory in the convention of llm-compressor",
     1},
    {"threads", 't', "N", 0, "Threads (default: physical cores)", 1},
    {"json", KEY_JSON, NULL, 0, "Print the report as JSON", 1},
    {0}};

static void add_keep(quantize_args *a, const struct argp_state *state, const char *glob) {
    const char **grown = mem_resize(a->keep, a->convert.n_keep + 1, sizeof *grown);
    if (!grown)
        argp_failure(state, CLI_BAD_INPUT, 0, "out of memory");
    a->keep = grown;
    a->keep[a->convert.n_keep++] = glob;
}

/* In whatever case. */
static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcasecmp(text + n - m, end) == 0;
}

/* 90000000, 90MB, 1.5GiB, in whatever case. */
static uint64_t parse_size(const struct argp_state *state, const char *text) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1}, {"MB", 1e6}, {"GB", 1e9}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
    char *end;
    const double number = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (strcasecmp(end, units[i].name) == 0 && number * units[i].bytes >= 1e6 &&
            number * units[i].bytes <= 1e15)
            return (uint64_t)(number * units[i].bytes);
    argp_error(
        state,
        "--size takes bytes, 1000000 at least, or a number with MB, GB, MiB or GiB behind it, not '%s'",
        text);
    return 0;
}

static const char *without_dots(const char *path) {
    while (strncmp(path, "./", 2) == 0)
        path += 2 + strspn(path + 2, "/");
    return path;
}

/* Whether PATH is OUT, or lies in the directory OUT. */
static bool lies_at(const char *path, const char *out) {
    path = without_dots(path);
    out = without_dots(out);
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/')
        n--;
    return n && strncmp(path, out, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* Is OUT a .gguf file? A directory is not called like another file. */
static bool names_a_file(const struct argp_state *state, const char *out) {
    static const char *const files[] = {".safetensors", ".bin", ".pt", ".pth"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (ends_with(out, files[i]))
            argp_error(state, "OUT, %s, would be a directory; a file is written where OUT ends in .gguf",
                       out);
    return ends_with(out, ".gguf");
}

/* --bits, --size, --plan and what belongs to them. */
static void check_plan(const struct argp_state *state, const quantize_args *a) {
    const char *budget = a->size ? "--size" : "--bits";
    if (a->plan && a->convert.format != QF_NVFP4)
        argp_error(state, "--plan says every layer's format, nvfp4 where it names none; leave --format out");
    if (quantize_has_budget(a) && a->convert.format != QF_NVFP4)
        argp_error(state, "%s gives layers more bits than nvfp4 has; leave --format %s out", budget,
                   formats[a->convert.format]);
    if (quantize_has_budget(a) && a->convert.n_keep)
        argp_error(
            state,
            "--keep does not go with %s, whose plan would count the layers that are kept; write the plan "
            "with --save-plan, set their \"format\" to \"keep\" and give it by --plan",
            budget);
    if (a->bits > 0 && a->size)
        argp_error(state, "--bits and --size both say how much there is to give; expected one of them");
    if (quantize_has_budget(a) && a->plan)
        argp_error(state, "%s makes a plan and --plan brings one; expected one of them", budget);
    if (quantize_has_budget(a) && a->calib_tokens && a->calib_tokens < PLAN_MIN_TOKENS)
        argp_error(state, "%s looks at %d tokens at least; --calib-tokens is %zu", budget, PLAN_MIN_TOKENS,
                   a->calib_tokens);
    if (a->apart && !quantize_has_budget(a))
        argp_error(state, "--apart is about what --bits or --size chooses; both are missing");
    if (a->save_plan && !quantize_has_budget(a))
        argp_error(state, "--save-plan writes what --bits or --size chooses; both are missing");
    if (a->save_plan && lies_at(a->save_plan, a->out))
        argp_error(state, "--save-plan %s lies where OUT, %s, is written; write it beside OUT", a->save_plan,
                   a->out);
}

static void check_rank(const struct argp_state *state, const quantize_args *a) {
    const bool chosen = a->method == METHOD_AUTO ? !a->imatrix : quantize_is_tuned(a->method);
    if (a->convert.svd_rank && (!chosen || a->convert.format != QF_NVFP4))
        argp_error(state, "--svd-rank goes with --method gptq or best and --format nvfp4");
    if (a->convert.svd_rank && (a->compressed_tensors || quantize_has_budget(a) || a->plan))
        argp_error(state, "--svd-rank goes without --compressed-tensors, --bits, --size and --plan");
}

static void check_calib(const struct argp_state *state, const quantize_args *a, bool blocks) {
    const bool reads = a->smooth || quantize_has_budget(a) || quantize_has_reach(a);
    if (a->convert.input_room > 0 && a->convert.format != QF_NVFP4 && a->convert.format != QF_FP8)
        argp_error(state, "--input-scale is for nvfp4 and fp8; %s has none", formats[a->convert.format]);
    if ((a->calib || a->calib_tokens) && !reads &&
        (!blocks || (a->method > METHOD_AUTO && a->method < METHOD_WEIGHTED)))
        argp_error(state, "--calib and --calib-tokens are for --method weighted, local, gptq and best");
}

static void check_imatrix(const struct argp_state *state, const quantize_args *a, bool blocks) {
    const bool weighs =
        blocks && (a->method == METHOD_AUTO || a->method == METHOD_WEIGHTED || a->method == METHOD_LOCAL);
    if (!a->imatrix)
        return;
    if (quantize_is_tuned(a->method))
        argp_error(state,
                   "--method %s chooses codes by how all inputs of a layer go together behind the layers "
                   "quantized before it, which no --imatrix holds; give the text itself by --calib",
                   methods[a->method]);
    if (!weighs && !quantize_has_reach(a))
        argp_error(state, "--imatrix is for --method weighted and local, --input-scale and --kv-scales");
    if (a->calib || a->calib_tokens)
        argp_error(state,
                   "--imatrix takes the place of a calibration; --calib and --calib-tokens ask for one");
}

static void check(const struct argp_state *state, quantize_args *a) {
    if (!a->in || !a->out)
        argp_error(state, "expected IN and OUT");
    const bool gguf = names_a_file(state, a->out);
    if (gguf && a->compressed_tensors)
        argp_error(state, "--compressed-tensors writes a directory; OUT is a .gguf file");
    if (gguf && (a->convert.format == QF_FP8 || a->convert.head == HEAD_FP8))
        argp_error(state, "a .gguf file cannot hold FP8 tensors; write a directory, or take q8_0 or q5_0");
    const bool q5_0 = a->convert.format == QF_Q5_0 || a->convert.head == HEAD_Q5_0;
    const bool q8_0 = a->convert.format == QF_Q8_0 || a->convert.head == HEAD_Q8_0;
    if (gguf && a->convert.kv_scales)
        argp_error(state, "--kv-scales is for a directory; a .gguf file has no place for them");
    if (!gguf && (q5_0 || q8_0))
        argp_error(state,
                   "OUT, %s, would be a directory; only a .gguf file holds %s tensors: let its name end in "
                   ".gguf, or take fp8",
                   a->out, q5_0 ? "Q5_0" : "Q8_0");
    const bool q5 = a->convert.format == QF_Q5_0;
    bool blocks = a->convert.format == QF_NVFP4 || a->convert.format == QF_MXFP4 || q5;
    if (!blocks && a->method != METHOD_AUTO && a->method != METHOD_RTN)
        argp_error(state, "--method %s chooses block scales; %s has none", methods[a->method],
                   formats[a->convert.format]);
    if (a->method == METHOD_4OVER6 && a->convert.format != QF_NVFP4)
        argp_error(state, "--method 4over6 is for nvfp4");
    if (a->method == METHOD_RTN && q5)
        argp_error(state, "--method rtn is for nvfp4 and mxfp4; take sweep");
    if (a->method >= METHOD_LOCAL && a->convert.format != QF_NVFP4 && !q5)
        argp_error(state, "--method %s is for nvfp4 and q5_0", methods[a->method]);
    if (a->convert.fp8_exact && a->convert.format != QF_NVFP4)
        argp_error(state, "--fp8-exact chooses block scales of nvfp4; %s has none",
                   formats[a->convert.format]);
    if (a->convert.fp8_exact && (a->method == METHOD_RTN || a->method == METHOD_4OVER6))
        argp_error(state, "--fp8-exact does not go with --method %s, whose scales are its reference's",
                   methods[a->method]);
    if (a->smooth && (a->convert.n_keep || a->imatrix))
        argp_error(state, "--smooth goes without --keep and --imatrix");
    check_calib(state, a, blocks);
    if (a->convert.format == QF_BF16 && a->convert.head != HEAD_KEEP)
        argp_error(state, "--head %s does not go with --format bf16", heads[a->convert.head]);
    check_imatrix(state, a, blocks);
    check_rank(state, a);
    check_plan(state, a);
    a->convert.out = gguf ? OUT_GGUF : a->compressed_tensors ? OUT_COMPRESSED_TENSORS : OUT_MODELOPT;
}

static const cli_member members[] = {
    {KEY_CALIB, CLI_WORD, offsetof(quantize_args, calib), NULL, 0, 0},
    {KEY_IMATRIX, CLI_WORD, offsetof(quantize_args, imatrix), NULL, 0, 0},
    {KEY_PLAN, CLI_WORD, offsetof(quantize_args, plan), NULL, 0, 0},
    {KEY_SAVE_PLAN, CLI_WORD, offsetof(quantize_args, save_plan), NULL, 0, 0},
    {KEY_FP8_EXACT, CLI_SWITCH, offsetof(quantize_args, convert.fp8_exact), NULL, 0, 0},
    {KEY_KV_SCALES, CLI_SWITCH, offsetof(quantize_args, convert.kv_scales), NULL, 0, 0},
    {KEY_APART, CLI_SWITCH, offsetof(quantize_args, apart), NULL, 0, 0},
    {KEY_SMOOTH, CLI_SWITCH, offsetof(quantize_args, smooth), NULL, 0, 0},
    {KEY_COMPRESSED, CLI_SWITCH, offsetof(quantize_args, compressed_tensors), NULL, 0, 0},
    {KEY_JSON, CLI_SWITCH, offsetof(quantize_args, json), NULL, 0, 0},
    {KEY_CALIB_TOKENS, CLI_SIZE, offsetof(quantize_args, calib_tokens), "--calib-tokens", 128, 1 << 30},
    {KEY_SVD_RANK, CLI_SIZE, offsetof(quantize_args, convert.svd_rank), "--svd-rank", 1, QUANTIZE_MAX_RANK},
    {'t', CLI_INT, offsetof(quantize_args, convert.threads), "--threads", 1, CLI_MAX_THREADS},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    quantize_args *a = state->input;
    convert_options *c = &a->convert;
    switch (key) {
    case KEY_FORMAT:
        c->format = (quant_format)cli_choice_flag(state, "--format", arg, formats);
        return 0;
    case KEY_METHOD:
        a->method = (method_choice)cli_choice_flag(state, "--method", arg, methods);
        return 0;
    case KEY_HEAD:
        c->head = (head_policy)cli_choice_flag(state, "--head", arg, heads);
        return 0;
    case KEY_EMBEDDING:
        c->embed = (embed_policy)cli_choice_flag(state, "--embedding", arg, embeddings);
        return 0;
    case KEY_KEEP:
        add_keep(a, state, arg);
        return 0;
    case KEY_BITS:
        a->bits = cli_real_flag(state, "--bits", arg, PLAN_MIN_BITS, PLAN_MAX_BITS);
        return 0;
    case KEY_INPUT_SCALE:
        c->input_room = cli_real_flag(state, "--input-scale", arg, 1, 64);
        return 0;
    case KEY_SIZE:
        a->size = parse_size(state, arg);
        return 0;
    case ARGP_KEY_ARG:
        if (a->out)
            argp_error(state, "IN and OUT are expected; '%s' is one argument too many", arg);
        *(a->in ? &a->out : &a->in) = arg;
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "IN OUT",
    .doc = "Quantizes the linear layers of IN (a GGUF file or a Hugging Face directory) and writes OUT: a "
           "file when the name ends in .gguf, else a directory in ModelOpt's convention. Norms, head and "
           "embedding are carried over (an embedding in blocks becomes BF16 in a directory: --embedding). "
           "OUT appears whole or not at all; a file of that name, or a directory "
           "that nibble wrote, is replaced. The same command writes the same bytes for any number of "
           "threads; what is calibrated differs in a few codes from one kind of processor to another.\v"
           "Examples:\n"
           "  nibble quantize SmolLM2-135M-Instruct.Q4_1.gguf smollm2-nvfp4.gguf\n"
           "  nibble quantize Qwen3-8B Qwen3-8B-NVFP4 --keep 'model.layers.0.*'",
};

void quantize_args_parse(quantize_args *a, int argc, char **argv) {
    cli_parse(&argp, argc, argv, a);
}

void quantize_args_free(quantize_args *a) {
    mem_free(a->keep);
}

const char *quantize_format_name(quant_format f) {
    return formats[f];
}

const char *quantize_method_name(method_choice m) {
    return methods[m];
}
