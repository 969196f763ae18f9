/* SPDX-License-Identifier: Apache-2.0
 *
 * Convert: a model file in, a quantized model file out, one tensor at a time, so that memory stays small
 * whatever the model. The output appears whole or not at all.
 */
#ifndef CONVERT_CONVERT_H
#define CONVERT_CONVERT_H

#include <signal.h>

#include "base/progress.h"
#include "export/export.h"
#include "quant/scale_search.h"
#include "store/model_file.h"

/* FP8 is for directories, Q5_0 and Q8_0 (blocks of 32 in 22 and 34 bytes) for GGUF files. */
typedef enum quant_format { QF_NVFP4 = 0, QF_MXFP4, QF_FP8, QF_Q5_0, QF_Q8_0, QF_BF16, QF_KEEP } quant_format;
typedef enum head_policy { HEAD_KEEP = 0, HEAD_NVFP4, HEAD_FP8, HEAD_Q5_0, HEAD_Q8_0 } head_policy;

/* What becomes of an embedding, and of a head that is kept, where the output's container has not the stored
 * format: AUTO and BF16 round what is stored in blocks (fewer bits than BF16) to BF16, F32 keeps every value.
 * BF16 and F32 are for every embedding, whatever the containers. */
typedef enum embed_policy { EMBED_AUTO = 0, EMBED_BF16, EMBED_F32 } embed_policy;

/* A matrix whose codes somebody else chooses: NVFP4's under a tensor scale that is settled, or Q5_0's. */
typedef struct convert_matrix {
    const tensor *t; /* of the source */
    slot slot;       /* t's, or SLOT_HEAD for the head made from a tied embedding */
    dtype to;        /* an NVFP4, or DT_Q5_0 */
    float tensor_scale;
    bool fp8_exact; /* block scales of scale_search_is_fp8_exact only */
    size_t rank;    /* of the low-rank branch wanted beside the codes; 0: none */
    /* filled, until convert returns: [rows, cols / 2], [rows, cols / 16], or [rows, cols / 32 * 22], NULL */
    const uint8_t *codes, *scales;
    tensor_branch branch; /* filled where RANK is not 0 */
} convert_matrix;

typedef struct convert_options {
    quant_format format;         /* not QF_KEEP */
    const quant_format *formats; /* [in->n_tensors] of linear layers, where they differ; NULL: FORMAT */
    quant_method method;         /* chooses tensor scales; and codes, without CHOOSE */
    /* Called once, when all tensor scales are known, with every matrix that becomes NVFP4 or Q5_0 with a
     * loss. */
    nib_status (*choose)(void *context, convert_matrix *matrices, size_t n, nib_error *err);
    void *choose_context;
    const char
        *choose_path; /* the file, beside the output, that CHOOSE keeps its codes in meanwhile; or NULL */
    bool fp8_exact;   /* NVFP4 under scale_search_is_fp8_exact's scales; METHOD is sweep or weighted */
    size_t svd_rank;  /* of a low-rank branch beside every linear layer that CHOOSE chooses; 0: none */
    head_policy head;
    embed_policy embed;
    out_kind out;
    const char *const *keep; /* globs of tensor names left as they are */
    size_t n_keep;
    const importance *importance; /* QM_WEIGHTED, QM_LOCAL */
    /* What is moved from the norm before attention (2 * layer) and before the MLP (2 * layer + 1) into the
     * columns of the matrices that read it: powers of two [dim]. FORMAT is QF_BF16, and norms are not
     * written as w of 1 + w; NULL: nothing. */
    const int8_t *const *smoothing; /* [2 * n_layers] */
    /* Largest inputs of the linear layers, [layer * SLOT_COUNT + slot]: NVFP4 and FP8 layers get an
     * input_scale of INPUT_ROOM times as much; NULL: they have the source's, if any. */
    const float *reach;
    double input_room;        /* 0: none is written */
    bool kv_scales;           /* also k_scale and v_scale of an FP8 cache by REACH; not in GGUF */
    const char *also_read[2]; /* further files that the output must not replace; NULL: none */
    int threads;              /* callers know the machine's cores; 0 counts as 1 */
    progress progress;
    const volatile sig_atomic_t *interrupted; /* becomes non-zero: stop, leave nothing; may be NULL */
} convert_options;

typedef struct convert_group { /* one line of the report: the tensors of one slot */
    slot slot;
    int n_tensors;
    dtype from, to; /* DT_NONE: the tensors of the group differ */
    uint64_t elements, bytes_before, bytes_after;
    double relative_error; /* ||w - w^|| / ||w|| over the group; 0 when carried over */
    double weighted_error; /* the same weighted with E[x^2]; 0 without importance */
} convert_group;

typedef struct convert_report {
    convert_group groups[SLOT_COUNT];
    int n_groups;
    uint64_t bytes_before, bytes_after; /* whole files */
    double bits_per_weight_all;
    double bits_per_weight_linear; /* of the linear layers, kept ones too */
    int n_quantized, n_repacked;   /* tensors: chosen anew, moved with every value kept */
    int n_cast;                    /* of the former: MXFP4 that became NVFP4 */
    uint64_t n_cast_changed;       /* values of these that NVFP4's range of block scales made others */
    bool tied_is_quantized;        /* the embedding too, because it is the head as well */
    bool head_is_untied;           /* the source's head was its embedding; the output has one of its own */
    int n_split;         /* q, k and v of a layer, or gate and up, that differ in quantized format */
    int n_misfits;       /* linear layers left as they are: their columns are no whole number of blocks */
    int n_skipped;       /* tensors of the source that the output's container does not hold */
    int n_rounded;       /* embedding and head that became BF16 */
    int n_widened;       /* kept matrices that only FP32 holds with every value */
    int n_scales_unread; /* tensor scales of a GGUF file that llama.cpp does not read where they are needed */
    int n_scales_rounded; /* scales copied as divisors that have no exact reciprocal: one FP32 step apart */
    int n_input_scales,
        n_kv_scales; /* matrices beside which an input_scale stands anew, layers with a k_scale */
    double seconds;
} convert_report;

/* Does convert quantize anything, or is all in the wanted format already? For callers that calibrate. */
bool convert_quantizes(const model_file *in, const convert_options *options);

/* Could convert write OUT_PATH, and is there room for it? For callers that calibrate first; nothing stays
 * behind. */
nib_status convert_try_output(const model_file *in, const char *out_path, const convert_options *options,
                              nib_error *err);

/* OPTIONS that contradict each other or the output are NIB_BAD_ARGUMENT in words; nothing is printed. */
nib_status convert(const model_file *in, const char *out_path, const convert_options *options,
                   convert_report *report, nib_error *err);

#endif
