/* SPDX-License-Identifier: Apache-2.0
 *
 * The decisions: which format a tensor gets (quantize), and where it keeps its values, how the output's
 * container takes them (carry); then the name there, the order of q's and k's rows, and what Gemma's norms
 * are shifted by. Called once by convert before it writes, and by callers that only ask whether something is
 * quantized. Reads the model file's list, never a tensor's bytes; items keep the order of that list.
 */
#include "convert/recipe.h"

#include <string.h>

#include "base/quote.h"
#include "base/stop.h"
#include "convert/joints.h"
#include "convert/recipe_names.h"
#include "nouns/family.h"
#include "store/names.h"

typedef struct chef {
    recipe *r;
    const model_file *in;
    const convert_options *o;
    joints *joined;
    nib_error *err;
} chef;

static const quant_format formats_of_heads[] = {[HEAD_KEEP] = QF_KEEP,
                                                [HEAD_NVFP4] = QF_NVFP4,
                                                [HEAD_FP8] = QF_FP8,
                                                [HEAD_Q5_0] = QF_Q5_0,
                                                [HEAD_Q8_0] = QF_Q8_0};

/* Only GGUF files hold it. */
static bool is_of_gguf(quant_format f) {
    return f == QF_Q5_0 || f == QF_Q8_0;
}

bool recipe_casts(const recipe_item *item) {
    return dtype_is_nvfp4(item->e.to) && dtype_is_mxfp4(item->e.t->dtype);
}

bool recipe_has_choice(const recipe_item *item) {
    return item->e.action == ENCODE_QUANTIZE && (dtype_is_nvfp4(item->e.to) || item->e.to == DT_Q5_0) &&
           !recipe_casts(item);
}

size_t recipe_rank(const convert_options *o, const recipe_item *item) {
    return recipe_has_choice(item) && place_is_linear(item->e.slot) ? o->svd_rank : 0;
}

size_t recipe_block(dtype t) {
    return t == DT_NVFP4 ? 16 : t == DT_MXFP4 ? 32 : dtype_get(t)->block;
}

/* The stored type of FORMAT in the output's container. */
static dtype target_of(const chef *c, quant_format format) {
    switch (format) {
    case QF_NVFP4:
        return c->r->to_gguf ? DT_GGUF_NVFP4 : DT_NVFP4;
    case QF_MXFP4:
        return c->r->to_gguf ? DT_GGUF_MXFP4 : DT_MXFP4;
    case QF_FP8:
        return DT_F8_E4M3;
    case QF_Q5_0:
        return DT_Q5_0;
    case QF_Q8_0:
        return DT_Q8_0;
    case QF_BF16:
        return DT_BF16;
    case QF_KEEP:
        break;
    }
    return DT_NONE;
}

/* ---- decisions ---- */

/* A tensor that is not quantized: as it is where the container allows, else the same values. */
static void carry(const chef *c, recipe_item *item) {
    const tensor *t = item->e.t;
    bool repacks = item->e.slot != SLOT_EMBED || !c->r->from_gguf;
    bool scaled = t->block_scales || t->row_scales || t->tile_scales || t->tensor_scale != 1.0f;
    item->e.to = t->dtype;
    item->e.action = ENCODE_CARRY;
    if (c->r->to_gguf == c->r->from_gguf) {
        bool known = t->place.slot != SLOT_NONE; /* its scale may be 1 */
        bool fp8 = t->dtype == DT_F8_E4M3 && known;
        item->e.action = scaled || fp8 ? ENCODE_REPACK : ENCODE_CARRY;
        if (t->dtype == DT_F8_E5M2 && (scaled || known)) { /* neither convention has words for it */
            item->e.action = ENCODE_CAST;
            item->e.to = DT_NONE;
        }
        if (t->tile_scales) { /* no output has words for tiles */
            item->e.action = ENCODE_CAST;
            item->e.to = DT_NONE;
        }
    } else if (dtype_is_nvfp4(t->dtype) && repacks && t->cols % 64 == 0) {
        item->e.action = ENCODE_REPACK;
        item->e.to = target_of(c, QF_NVFP4);
    } else if (dtype_is_mxfp4(t->dtype) && repacks) {
        item->e.action = ENCODE_REPACK;
        item->e.to = target_of(c, QF_MXFP4);
    } else if (c->r->to_gguf && t->n_dims <= 1) {
        item->e.action = ENCODE_CAST; /* llama.cpp asks for F32 vectors */
        item->e.to = DT_F32;
    } else if (scaled || item->e.heads || item->e.shift != 0.0f ||
               (t->dtype != DT_BF16 && t->dtype != DT_F16)) {
        item->e.action = ENCODE_CAST;
        item->e.to = DT_NONE;
    }
}

/* What --embedding asks for, and a matrix in blocks that the container does not know: twice the bytes of BF16
 * would keep what the blocks have rounded away. */
static void round_embedding(const chef *c, recipe_item *item) {
    const dtype stored = item->e.t->dtype;
    const bool embed = item->e.slot == SLOT_EMBED, asked = embed && c->o->embed != EMBED_AUTO;
    const dtype wanted = c->o->embed == EMBED_F32 ? DT_F32 : DT_BF16;
    if ((!embed && item->e.slot != SLOT_HEAD) || item->e.t->n_dims != 2 || !dtype_get(stored)->is_weight)
        return;
    const bool blocks = dtype_get(stored)->block > 1 && item->e.action == ENCODE_CAST;
    if (!(asked ? stored != wanted : blocks && c->o->embed != EMBED_F32))
        return;
    item->e.action = ENCODE_CAST;
    item->e.to = wanted;
    c->r->n_rounded += wanted == DT_BF16;
}

static bool same_format(dtype stored, dtype wanted) {
    return stored == wanted || (dtype_is_nvfp4(stored) && dtype_is_nvfp4(wanted)) ||
           (dtype_is_mxfp4(stored) && dtype_is_mxfp4(wanted));
}

/* What is known of the item's inputs. */
static void find_importance(const chef *c, recipe_item *item) {
    const importance *i = c->o->importance;
    const int layer = item->e.t->place.layer < 0 ? 0 : item->e.t->place.layer;
    const int at = layer * SLOT_COUNT + (int)item->e.slot;
    if (!i || layer >= i->n_layers)
        return;
    if (c->o->method == QM_WEIGHTED)
        item->e.weights = i->mean_squares[at];
    if (c->o->method == QM_LOCAL && recipe_has_choice(item))
        item->e.blocks = i->blocks[at];
}

/* llama.cpp has no name for a scale beside the token embedding (and refuses the file), and computes some
 * families' gate, up and down without the scales that it has loaded. Down's does not matter: a norm follows.
 */
static bool is_scale_unread(const chef *c, slot s) {
    bool gated = s == SLOT_GATE || s == SLOT_UP;
    return c->r->to_gguf && (s == SLOT_EMBED || (gated && family_get(c->in->hp.family)->gate_scales_unread));
}

static nib_status quantize(const chef *c, recipe_item *item, quant_format format) {
    const tensor *t = item->e.t;
    dtype to = target_of(c, format);
    if (!dtype_get(t->dtype)->is_weight)
        return nib_fail(c->err, NIB_UNSUPPORTED, "%s: tensor %s is stored as %s, which nibble does not read",
                        c->in->path, QUOTEZ(t->name), model_file_format_name(c->in, t));
    if (t->cols % recipe_block(to) || (same_format(t->dtype, to) && to == DT_GGUF_NVFP4 && t->cols % 64)) {
        c->r->n_misfits++;
        carry(c, item);
        return NIB_OK;
    }
    item->e.to = to;
    item->e.action = ENCODE_QUANTIZE;
    if (same_format(t->dtype, to) && to != DT_BF16 && !t->tile_scales) {
        item->e.action = ENCODE_REPACK;
        return NIB_OK;
    }
    if (t->dtype == DT_BF16 && to == DT_BF16 && t->tensor_scale == 1.0f) {
        item->e.action = item->e.heads || item->e.powers ? ENCODE_CAST : ENCODE_CARRY;
        return NIB_OK;
    }
    const size_t rank = recipe_rank(c->o, item), least = t->rows < t->cols ? t->rows : t->cols;
    if (rank >= least && rank > 0)
        return nib_fail(
            c->err, NIB_BAD_ARGUMENT,
            "%s: tensor %s is [%zu, %zu]; a low-rank branch beside it has a rank below %zu, not %zu",
            c->in->path, QUOTEZ(t->name), t->rows, t->cols, least, rank);
    item->unit_scale = is_scale_unread(c, item->e.slot);
    find_importance(c, item);
    item->group = joints_group(c->joined, c->r, item);
    return NIB_OK;
}

static bool is_rope_table(slot s) {
    return s == SLOT_ROPE_FREQS || s == SLOT_ROPE_LONG || s == SLOT_ROPE_SHORT;
}

/* Does the output's container hold this tensor of the source? */
static bool has_place(const chef *c, const tensor *t) {
    strview name = strview_of(t->name);
    if (c->r->to_gguf == c->r->from_gguf)
        return !(c->r->unties_head && t->place.slot == SLOT_NONE && strcmp(t->name, "lm_head.weight") == 0);
    if (is_rope_table(t->place.slot) || t->place.slot == SLOT_NONE)
        return false; /* config.json says the frequencies */
    return c->r->from_gguf || !names_hf_is_tower(name);
}

static void fit_container(const chef *c, recipe_item *item) {
    const hparams *hp = &c->in->hp;
    if (c->r->to_gguf == c->r->from_gguf)
        return;
    if (family_get(hp->family)->gguf_interleaved && (item->e.slot == SLOT_Q || item->e.slot == SLOT_K)) {
        item->e.heads = item->e.slot == SLOT_Q ? hp->n_heads : hp->n_kv_heads;
        item->e.interleave = c->r->to_gguf;
    }
    bool norm = item->e.slot == SLOT_FINAL_NORM || item->e.slot == SLOT_ATTN_NORM ||
                item->e.slot == SLOT_Q_NORM || item->e.slot == SLOT_K_NORM ||
                item->e.slot == SLOT_POST_ATTN_NORM || item->e.slot == SLOT_FFN_NORM ||
                item->e.slot == SLOT_POST_FFN_NORM;
    if (family_get(hp->family)->defaults.norm_plus_one && norm)
        item->e.shift = c->r->to_gguf ? 1.0f : -1.0f;
}

/* What smoothing moves out of a norm, or into a matrix that reads what the norm gives. */
static void smooth(const chef *c, recipe_item *item) {
    const slot s = item->e.slot;
    const bool attention = s == SLOT_ATTN_NORM || s == SLOT_Q || s == SLOT_K || s == SLOT_V || s == SLOT_QKV;
    const bool mlp = s == SLOT_FFN_NORM || s == SLOT_GATE || s == SLOT_UP || s == SLOT_GATE_UP;
    if (!c->o->smoothing || !(attention || mlp))
        return;
    item->e.powers = c->o->smoothing[2 * item->e.t->place.layer + mlp];
    item->e.divides = s == SLOT_ATTN_NORM || s == SLOT_FFN_NORM;
}

/* Rows of q and k change places between the containers of some families, biases of theirs would have to too.
 */
static nib_status check_biases(const chef *c, slot s) {
    bool permuted = family_get(c->in->hp.family)->gguf_interleaved && c->r->to_gguf != c->r->from_gguf;
    if (permuted && (s == SLOT_Q_BIAS || s == SLOT_K_BIAS))
        return nib_fail(c->err, NIB_UNSUPPORTED,
                        "%s: biases of q and k, which nibble does not move to the other kind of file",
                        c->in->path);
    return NIB_OK;
}

static nib_status add(const chef *c, const tensor *t, slot s) {
    recipe_item *item = &c->r->items[c->r->n];
    if (s != SLOT_NONE && t->place.layer >= HPARAMS_MAX_LAYERS) /* of a network that nibble does not know */
        return nib_fail(c->err, NIB_UNSUPPORTED, "%s: tensor %s is of layer %d; expected %d layers at most",
                        c->in->path, QUOTEZ(t->name), t->place.layer, HPARAMS_MAX_LAYERS);
    *item = (recipe_item){.e = {.t = t, .slot = s}, .group = -1};
    if (t->branch.rank)
        return nib_fail(c->err, NIB_UNSUPPORTED,
                        "%s: tensor %s has a low-rank branch; quantize what the file was made from",
                        c->in->path, QUOTEZ(t->name));
    NIB_TRY(check_biases(c, s));
    NIB_TRY(recipe_names_make(c->r, c->in, t, s, &item->name, c->err));
    if (!item->name || !has_place(c, t)) {
        c->r->n_skipped += !is_rope_table(t->place.slot);
        return NIB_OK;
    }
    fit_container(c, item);
    smooth(c, item);
    bool head = s == SLOT_HEAD || (s == SLOT_EMBED && c->r->embed_is_head);
    bool wanted =
        (place_is_linear(s) && t->place.expert == PLACE_NO_EXPERT) || (head && c->o->head != HEAD_KEEP);
    const quant_format format = head            ? formats_of_heads[c->o->head]
                                : c->o->formats ? c->o->formats[t - c->in->tensors]
                                                : c->o->format;
    if (wanted && format != QF_KEEP && t->n_dims == 2 && !recipe_names_kept(c->o, item)) {
        NIB_TRY(quantize(c, item, format));
    } else {
        carry(c, item);
        round_embedding(c, item);
        if (item->e.divides && item->e.action == ENCODE_CARRY) {
            item->e.action = ENCODE_CAST;
            item->e.to = DT_NONE;
        }
    }
    bool readable = item->e.action == ENCODE_CARRY || dtype_get(t->dtype)->is_weight;
    if (t->dtype == DT_NONE || !readable)
        return nib_fail(c->err, NIB_UNSUPPORTED, "%s: tensor %s is stored as %s, which nibble does not read",
                        c->in->path, QUOTEZ(t->name), model_file_format_name(c->in, t));
    if (item->e.action == ENCODE_REPACK && dtype_is_nvfp4(t->dtype) && t->tensor_scale != 1.0f)
        c->r->n_scales_unread += is_scale_unread(c, s);
    c->r->n++;
    return NIB_OK;
}

static nib_status check_options(const chef *c) {
    const convert_options *o = c->o;
    bool fp8 = o->format == QF_FP8 || o->head == HEAD_FP8;
    const quant_format of_head = formats_of_heads[o->head];
    quant_format gguf = is_of_gguf(o->format) ? o->format : is_of_gguf(of_head) ? of_head : QF_KEEP;
    bool by_plan = false;
    for (size_t i = 0; o->formats && i < c->in->n_tensors; i++) {
        fp8 |= place_is_linear(c->in->tensors[i].place.slot) && o->formats[i] == QF_FP8;
        if (gguf == QF_KEEP && place_is_linear(c->in->tensors[i].place.slot) && is_of_gguf(o->formats[i])) {
            gguf = o->formats[i];
            by_plan = true;
        }
    }
    if (c->r->to_gguf && fp8)
        return nib_fail(c->err, NIB_BAD_ARGUMENT,
                        "FP8 was asked for, but a GGUF file cannot hold FP8 tensors; "
                        "write a directory, or ask for Q8_0 or Q5_0");
    if (!c->r->to_gguf && gguf != QF_KEEP)
        return nib_fail(c->err, NIB_BAD_ARGUMENT,
                        "%s was asked for%s, which only GGUF files hold; write a .gguf file, or ask for FP8",
                        gguf == QF_Q5_0 ? "Q5_0" : "Q8_0", by_plan ? " by the plan" : "");
    if (o->format == QF_BF16 && o->head != HEAD_KEEP)
        return nib_fail(c->err, NIB_BAD_ARGUMENT,
                        "a BF16 model keeps its head; the head policy must be keep");
    if (o->method == QM_FOUR_OVER_SIX && o->format == QF_MXFP4)
        return nib_fail(c->err, NIB_BAD_ARGUMENT,
                        "4over6 chooses NVFP4 scales; MXFP4 has powers of two only");
    if (o->method == QM_WEIGHTED && !o->importance)
        return nib_fail(c->err, NIB_BAD_ARGUMENT, "the weighted method needs a calibration");
    if (o->method == QM_LOCAL && !(o->importance && o->importance->blocks))
        return nib_fail(c->err, NIB_BAD_ARGUMENT, "the local method needs a calibration");
    if (o->smoothing && (o->format != QF_BF16 || o->n_keep > 0))
        return nib_fail(c->err, NIB_BAD_ARGUMENT,
                        "smoothing changes norms and the matrices that read them, all of them and in BF16");
    if (c->in->n_tensors == 0)
        return nib_fail(c->err, NIB_BAD_FILE, "%s: holds no tensors", c->in->path);
    if (c->r->to_gguf != c->r->from_gguf)
        return model_file_need_network(c->in, c->err);
    return NIB_OK;
}

static const tensor *find_slot(const model_file *in, slot s) {
    for (size_t i = 0; i < in->n_tensors; i++)
        if (in->tensors[i].place.slot == s)
            return &in->tensors[i];
    return NULL;
}

nib_status recipe_make(recipe *out, const model_file *in, const convert_options *options, nib_error *err) {
    *out = (recipe){.to_gguf = options->out == OUT_GGUF, .from_gguf = in->format == FORMAT_GGUF};
    joints joined;
    joints_open(&joined);
    chef c = {out, in, options, &joined, err};
    NIB_TRY(check_options(&c));
    out->items = arena_alloc(&out->arena, in->n_tensors + 1, sizeof *out->items);
    if (!out->items)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", in->path, in->n_tensors);
    const tensor *embed = find_slot(in, SLOT_EMBED);
    if (options->head != HEAD_KEEP && !find_slot(in, SLOT_HEAD)) {
        if (!embed || !in->has_network || !in->hp.tied)
            return nib_fail(err, NIB_BAD_FILE, "%s: has no head that could be quantized", in->path);
        out->embed_is_head = out->to_gguf;
        out->unties_head = !out->to_gguf;
    }
    for (size_t i = 0; i < in->n_tensors; i++) {
        NIB_TRY(stop_check(options->interrupted, err));
        NIB_TRY(add(&c, &in->tensors[i], in->tensors[i].place.slot));
    }
    if (out->unties_head)
        NIB_TRY(add(&c, embed, SLOT_HEAD));
    NIB_TRY(recipe_names_check(out, in, options, err));
    joints_count_split(out);
    size_t n_quantized = 0, n_branches = 0;
    for (size_t i = 0; i < out->n; i++) {
        n_quantized += place_is_linear(out->items[i].e.slot);
        n_branches += recipe_rank(options, &out->items[i]) > 0;
    }
    if (n_quantized == 0)
        return nib_fail(err, NIB_BAD_FILE, "%s: has no linear layer that nibble knows by name", in->path);
    if (options->svd_rank && n_branches == 0)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: no matrix gets a low-rank branch: none has codes still to be chosen", in->path);
    return NIB_OK;
}
