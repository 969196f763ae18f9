/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor names: place <-> GGUF name <-> Hugging Face name. One table, read both ways; a family
 * replaces lines of it (nouns/family.h).
 *
 * Hugging Face names carry a prefix (model., language_model.model., model.language_model.) that belongs to
 * the checkpoint, not to the tensor: reading takes any of them, writing takes the wanted one.
 * With FAMILY_NONE the common names are recognized (an unknown family can still be quantized).
 */
#ifndef STORE_NAMES_H
#define STORE_NAMES_H

#include "base/strview.h"
#include "nouns/hparams.h"
#include "nouns/place.h"

/* Of a low-rank branch, in either container. */
#define NAMES_BRANCH_DOWN ".svdquant_lora_a"
#define NAMES_BRANCH_UP   ".svdquant_lora_b"

#define NAMES_MAX 128 /* bytes of a name that is written here, NUL included */

/* What stands beside a tensor under the same stem. */
typedef enum names_companion {
    COMPANION_NONE = 0,            /* a tensor of its own */
    COMPANION_WEIGHT_SCALE,        /* .weight_scale: NVFP4 block scales, or FP8 row or tensor scale */
    COMPANION_WEIGHT_SCALE_2,      /* .weight_scale_2: multiplies (ModelOpt) */
    COMPANION_INPUT_SCALE,         /* .input_scale: multiplies (ModelOpt, GGUF) */
    COMPANION_WEIGHT_PACKED,       /* .weight_packed: the codes (compressed-tensors) */
    COMPANION_WEIGHT_GLOBAL_SCALE, /* .weight_global_scale: divides (compressed-tensors) */
    COMPANION_INPUT_GLOBAL_SCALE,  /* .input_global_scale: divides */
    COMPANION_SCALE,               /* .scale or .weight.scale: multiplies (GGUF) */
    COMPANION_KV_SCALE,            /* .k_scale, .v_scale, ...: of attention in FP8 */
    COMPANION_BRANCH_DOWN,         /* .svdquant_lora_a [rank, cols] and */
    COMPANION_BRANCH_UP,           /* .svdquant_lora_b [rows, rank]: a low-rank branch, by ModelOpt's names */
    COMPANION_COUNT
} names_companion;

/* The place of a name; false, SLOT_NONE and no layer when it is none of ours. An expert's tensor is known
 * alone
 * ("experts.3.up_proj") and stacked ("ffn_up_exps"). */
bool names_from_gguf(family f, strview name, place *out);
bool names_from_hf(family f, strview name, place *out);

/* Name of a place's tensor; false when the convention or family has none (OUT is then ""). */
bool names_to_gguf(family f, place p, char out[NAMES_MAX]);
/* PREFIX: "model.", "language_model.model." or "model.language_model."; the head stands beside the model, so
 * of it only "language_model." is kept. */
bool names_to_hf(family f, place p, const char *prefix, char out[NAMES_MAX]);

/* Which companion NAME is, and its stem (NAME without the suffix: "blk.0.attn_q" of "blk.0.attn_q.scale").
 * names_hf takes the Hugging Face suffixes, names_gguf those of GGUF. COMPANION_NONE: the stem is NAME
 * without ".weight" where it ends so, else NAME. */
names_companion names_hf_companion(strview name, strview *stem);
names_companion names_gguf_companion(strview name, strview *stem);

/* NAME lies inside a layer of the text network ("blk.3. ...", "model.layers.3. ..."). */
bool names_gguf_in_layer(strview name);
bool names_hf_in_layer(strview name);
/* NAME belongs to a vision or audio tower, or to the projector between it and the text network. */
bool names_hf_is_tower(strview name);

#endif
