/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json from bytes: hyper-parameters and the quantization it tells.
 */
#ifndef FUZZ_CONFIG_TARGET_H
#define FUZZ_CONFIG_TARGET_H

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "store/config.h"
#include "store/json_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every pair turns by a number, and what cosine and sine are multiplied by is one. */
static inline bool config_target_rope(const rope_params *r, const hparams *hp) {
    static float inv_freq[CONFIG_MAX_HEAD_DIM / 2];
    float factor = rope_attention_factor(r);
    bool sound = r->theta > 0 && isfinite(r->theta) && factor > 0 && isfinite(factor);
    rope_inv_freq(inv_freq, r, hp->head_dim, hp->context_len, NULL);
    for (int i = 0; i < hp->head_dim / 2; i++)
        sound = sound && isfinite(inv_freq[i]) && inv_freq[i] >= 0;
    return sound;
}

/* What accepted hyper-parameters promise. */
static inline void config_target_check(const hparams *hp) {
    bool sound = hp->n_layers >= 1 && hp->n_layers <= HPARAMS_MAX_LAYERS && hp->dim >= 1 &&
                 hp->ffn_dim >= 1 && hp->n_kv_heads >= 1 && hp->n_heads % hp->n_kv_heads == 0 &&
                 hp->head_dim >= 2 && hp->head_dim % 2 == 0 && hp->vocab >= 1 && hp->context_len >= 1;
    const float positive[] = {hp->norm_eps, hp->attn_scale, hp->embed_scale, hp->residual_scale,
                              hp->logit_scale};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++)
        sound = sound && positive[i] > 0 && isfinite(positive[i]);
    sound = sound && config_target_rope(&hp->rope, hp) && config_target_rope(&hp->rope_local, hp);
    for (int i = 0; i < hp->n_layers; i++)
        sound = sound && (!hp->local[i] || hp->sliding_window >= 1);
    if (!sound)
        abort();
}

static inline nib_status config_target_read(const uint8_t *data, size_t size) {
    nib_error err = {""};
    json_t *root;
    hparams hp;
    config_quant quant;
    NIB_TRY(json_file_bound(data, size, 10, "config.json", &err));
    NIB_TRY(json_read(&root, data, size, "config.json", &err));
    nib_status status = config_from_json(&hp, root, "config.json", &err);
    if (status == NIB_OK)
        config_target_check(&hp);
    else if (!err.text[0])
        abort();
    nib_status other =
        json_is_object(root) ? config_quantization(&quant, root, NULL, "config.json", &err) : NIB_OK;
    json_decref(root);
    return status ? status : other;
}

#endif
