/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of the slots, as reports and sentences write them; no file holds them (store/names.h has the
 * names of files). A slot without a name is our own mistake.
 */
#include <assert.h>

#include "nouns/place.h"

const char *slot_name(slot s) {
    static const char *const names[SLOT_COUNT] = {
        [SLOT_NONE] = "other",
        [SLOT_EMBED] = "embed",
        [SLOT_HEAD] = "head",
        [SLOT_FINAL_NORM] = "final_norm",
        [SLOT_ROPE_FREQS] = "rope_freqs",
        [SLOT_ROPE_LONG] = "rope_long",
        [SLOT_ROPE_SHORT] = "rope_short",
        [SLOT_ATTN_NORM] = "attn_norm",
        [SLOT_Q] = "attn_q",
        [SLOT_K] = "attn_k",
        [SLOT_V] = "attn_v",
        [SLOT_QKV] = "attn_qkv",
        [SLOT_O] = "attn_out",
        [SLOT_Q_BIAS] = "attn_q_bias",
        [SLOT_K_BIAS] = "attn_k_bias",
        [SLOT_V_BIAS] = "attn_v_bias",
        [SLOT_O_BIAS] = "attn_out_bias",
        [SLOT_Q_NORM] = "q_norm",
        [SLOT_K_NORM] = "k_norm",
        [SLOT_POST_ATTN_NORM] = "post_attn_norm",
        [SLOT_FFN_NORM] = "ffn_norm",
        [SLOT_GATE] = "ffn_gate",
        [SLOT_UP] = "ffn_up",
        [SLOT_GATE_UP] = "ffn_gate_up",
        [SLOT_DOWN] = "ffn_down",
        [SLOT_POST_FFN_NORM] = "post_ffn_norm",
        [SLOT_K_SCALE] = "k_scale",
        [SLOT_V_SCALE] = "v_scale",
        [SLOT_ROUTER] = "router",
    };
    assert(s >= SLOT_NONE && s < SLOT_COUNT);
    return names[s];
}
