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

/* What accepted hyper-parameters promise. */
static inline void config_target_check(const hparams *hp) {
    bool sound = hp->n_layers >= 1 && hp->n_layers <= HPARAMS_MAX_LAYERS && hp->dim >= 1 &&
                 hp->ffn_dim >= 1 && hp->n_kv_heads >= 1 && hp->n_heads % hp->n_kv_heads == 0 &&
                 hp->head_dim >= 2 && hp->head_dim % 2 == 0 && hp->vocab >= 1 && hp->context_len >= 1 &&
                 hp->norm_eps > 0 && isfinite(hp->norm_eps) && isfinite(hp->rope_theta) &&
                 hp->rope_theta > 0 && isfinite(hp->rope_theta_local) && hp->rope_theta_local > 0 &&
                 isfinite(hp->attn_scale) && hp->attn_scale > 0 && isfinite(hp->embed_scale) &&
                 hp->embed_scale > 0 && isfinite(hp->rope_factor);
    if (hp->rope_scaling != ROPE_PLAIN)
        sound = sound && hp->rope_factor >= 1;
    if (hp->rope_scaling == ROPE_LLAMA3)
        sound = sound && hp->rope_high_freq > hp->rope_low_freq && hp->rope_low_freq > 0 &&
                hp->rope_original_context >= 1;
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
