/* SPDX-License-Identifier: Apache-2.0
 *
 * Fit: what a network takes on a GPU before anything is allocated, and what that leaves for the KV cache;
 * with the tokens per second that reading it allows (the roofline of decode). Pure arithmetic over the file's
 * tensors: no GPU is asked. Callers: inspect --fit, and who opens a model on a GPU.
 */
#ifndef MODEL_FIT_H
#define MODEL_FIT_H

#include "ops/ops.h"
#include "store/model_file.h"

typedef struct fit_card {
    const char *name;
    double memory;    /* bytes, of which a part is the driver's */
    double bandwidth; /* bytes per second, by the vendor's datasheet */
} fit_card;

#define FIT_N_CARDS 7
extern const fit_card fit_cards[FIT_N_CARDS];

/* As vLLM's flags of these names. */
typedef struct fit_options {
    double memory_utilization;  /* share of the card's memory that may be used; 0: 0.9 */
    int max_model_len;          /* 0: the model's, at most 4096 */
    int max_num_seqs;           /* 0: 16 */
    int max_num_batched_tokens; /* 0: 2048 */
    nib_kv_dtype kv_dtype;      /* AUTO: FP8 */
} fit_options;

typedef struct fit_plan {
    double weights;                         /* as they lie on the device */
    double activations;                     /* buffers, workspace, logits, sampling, of a full step */
    double context;                         /* the driver's, the library's code and graphs */
    double kv_page;                         /* KV_PAGE_TOKENS positions, all layers */
    double kv_one;                          /* one sequence of max_model_len */
    double token;                           /* weights that one decoded token reads */
    double usable;                          /* of the card */
    double kv;                              /* usable less the three above; negative: it does not fit */
    int64_t kv_tokens;                      /* positions that fit there */
    double tokens_per_s, tokens_per_s_full; /* one stream at short context, and at max_model_len */
} fit_plan;

/* What is the same on every card: fills OPTIONS' defaults and the plan but for what a card says. */
void fit_needs(const model_file *f, fit_options *o, fit_plan *p);
void fit_on(fit_plan *p, const fit_options *o, const fit_card *card);

/* One sentence: that it fits and how much, or what is missing and what would help. */
void fit_words(const fit_plan *p, const fit_options *o, char *text, size_t size);

#endif
