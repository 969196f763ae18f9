/* SPDX-License-Identifier: Apache-2.0
 *
 * Plan: which linear layers get more bits than NVFP4 has, for `nibble quantize --bits` and `--plan`. It is
 * chosen by sensitivity (eval/sensitivity.h), greedily: the step up that takes most divergence away for its
 * bits comes first. As a file it is JSON, and may be edited:
 *
 *   {"nibble_plan": 1, "bits": 4.75, "parts": [{"tensors": ["blk.0.attn_q.weight", ...], "format": "fp8"}]}
 *
 * Formats are nvfp4, fp8 (a directory's), q5_0 and q8_0 (a .gguf file's) and bf16, and keep: as the source
 * has it. Other keys are for people. Linear layers that stand nowhere get nvfp4.
 */
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli/ui.h"
#include "convert/convert.h"
#include "eval/sensitivity.h"

#define PLAN_MIN_BITS   4.5
#define PLAN_MAX_BITS   16.0
#define PLAN_MIN_TOKENS 512

typedef struct plan_options {
    const char *in, *out; /* the model, and where the result goes: what is kept meanwhile lies beside it */
    const char
        *calib; /* a text, or conversations where the name ends in .jsonl; NULL: the text inside nibble */
    const char *calib_name;         /* in sentences and in the plan */
    size_t max_tokens;              /* of it, PLAN_MIN_TOKENS at least; some hundred are enough */
    double bits;                    /* per weight of the linear layers, all together; 0: size_bytes says */
    uint64_t size_bytes;            /* of the files that hold tensors, at most */
    double spare_bits;              /* that it leaves for more than NVFP4 (plan_measure_spare) */
    const convert_options *convert; /* what is written in the end */
    bool apart;                     /* q, k and v, or gate and up, of a layer may differ */
    const importance *heed;         /* NULL or without mean_squares: none */
    ui_bar *bar;
} plan_options;

typedef struct plan {
    quant_format *formats;        /* [file->n_tensors] */
    sensitivity found;            /* empty where the plan was read */
    const char *text;             /* that it was measured on: the options', or a name for that inside */
    int n_tokens;                 /* of it */
    bool to_gguf;                 /* Q5_0 and Q8_0 in place of FP8; of a plan that was chosen */
    quant_format *part_formats;   /* [found.n] */
    double bits;                  /* of the linear layers as planned */
    bool is_over;                 /* more bits than were asked for */
    double kld_before, kld_after; /* the sums of the parts' divergences, all in NVFP4 and as planned */
} plan;

nib_status plan_choose(plan *out, const model_file *file, const plan_options *options, nib_error *err);
/* Names that stand for no linear layer of FILE, in a GGUF file's words or in a directory's, are refused. */
nib_status plan_read(plan *out, const model_file *file, const char *path, nib_error *err);
/* A plan for FROM becomes one for TO, which was made of it; an empty one stays empty. */
nib_status plan_move(plan *p, const model_file *from, const model_file *to, nib_error *err);
nib_status plan_write(const plan *p, const char *path, nib_error *err);
void plan_print(const plan *p);                        /* nothing where it was read */
void plan_print_json(const plan *p, const char *path); /* an object, or null */
void plan_free(plan *p);

#endif
