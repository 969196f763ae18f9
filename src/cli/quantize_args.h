/* SPDX-License-Identifier: Apache-2.0
 *
 * What the command line of `nibble quantize` asks for. Caller: cmd_quantize.
 */
#ifndef CLI_QUANTIZE_ARGS_H
#define CLI_QUANTIZE_ARGS_H

#include "convert/convert.h"

typedef enum method_choice {
    METHOD_AUTO = 0,
    METHOD_RTN,
    METHOD_SWEEP,
    METHOD_4OVER6,
    METHOD_WEIGHTED,
    METHOD_LOCAL,
    METHOD_GPTQ,
    METHOD_BEST
} method_choice;

#define QUANTIZE_MAX_RANK 256 /* of --svd-rank */

typedef struct quantize_args {
    const char *in, *out, *calib, *imatrix, *plan, *save_plan;
    double bits;   /* of the linear layers; 0: not asked for */
    uint64_t size; /* bytes; 0: not asked for */
    bool apart, smooth;
    method_choice method;
    size_t calib_tokens;
    bool compressed_tensors, json;
    const char **keep; /* [convert.n_keep], owned */
    convert_options convert;
} quantize_args;

/* Reads the command line, or ends the program with words; A is zeroed. What goes together is checked, no file
 * is looked at. */
void quantize_args_parse(quantize_args *a, int argc, char **argv);
void quantize_args_free(quantize_args *a);

const char *quantize_format_name(quant_format f);
const char *quantize_method_name(method_choice m);

/* Chosen layer by layer (cli/tuned.h). */
static inline bool quantize_is_tuned(method_choice m) {
    return m >= METHOD_GPTQ;
}

/* --input-scale or --kv-scales. */
static inline bool quantize_has_reach(const quantize_args *a) {
    return a->convert.input_room > 0 || a->convert.kv_scales;
}

/* --bits or --size. */
static inline bool quantize_has_budget(const quantize_args *a) {
    return a->bits > 0 || a->size;
}

#endif
