/* SPDX-License-Identifier: Apache-2.0
 *
 * A network's tensors against its hyper-parameters: every tensor it needs is there once, in the shape it
 * needs, and none that its family does not have. What is missing or misshapen is a damaged file; what nibble
 * cannot read (an unknown block format) is a note.
 */
#include "store/model_parts.h"
#include "store/names.h"
#include "store/quote.h"

typedef struct shape {
    size_t rows, cols; /* rows 1: a vector */
} shape;

/* Slots whose absence is no damage: a tied head, RoPE divisors of Llama 3. */
static bool is_optional(const hparams *hp, slot s) {
    return s == SLOT_ROPE_FREQS || (s == SLOT_HEAD && hp->tied);
}

static bool family_has(family f, slot s) {
    switch (s) {
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        return f == FAMILY_QWEN3 || f == FAMILY_GEMMA3;
    case SLOT_POST_ATTN_NORM:
    case SLOT_POST_FFN_NORM:
        return f == FAMILY_GEMMA3;
    case SLOT_ROPE_FREQS:
        return f == FAMILY_LLAMA;
    case SLOT_EMBED:
    case SLOT_HEAD:
    case SLOT_FINAL_NORM:
    case SLOT_ATTN_NORM:
    case SLOT_Q:
    case SLOT_K:
    case SLOT_V:
    case SLOT_O:
    case SLOT_FFN_NORM:
    case SLOT_GATE:
    case SLOT_UP:
    case SLOT_DOWN:
        return true;
    default:
        return false;
    }
}

static shape shape_of(const hparams *hp, slot s) {
    size_t dim = (size_t)hp->dim, ffn = (size_t)hp->ffn_dim, head = (size_t)hp->head_dim;
    size_t q = (size_t)hp->n_heads * head, kv = (size_t)hp->n_kv_heads * head, vocab = (size_t)hp->vocab;
    switch (s) {
    case SLOT_EMBED:
    case SLOT_HEAD:
        return (shape){vocab, dim};
    case SLOT_ROPE_FREQS:
        return (shape){1, head / 2};
    case SLOT_Q:
        return (shape){q, dim};
    case SLOT_K:
    case SLOT_V:
        return (shape){kv, dim};
    case SLOT_O:
        return (shape){dim, q};
    case SLOT_Q_NORM:
    case SLOT_K_NORM:
        return (shape){1, head};
    case SLOT_GATE:
    case SLOT_UP:
        return (shape){ffn, dim};
    case SLOT_DOWN:
        return (shape){dim, ffn};
    default: /* the norms */
        return (shape){1, dim};
    }
}

/* The name of a place in this file's convention, for sentences. */
static void name_of(const model_file *f, place p, char out[NAMES_MAX]) {
    if (f->format == FORMAT_GGUF)
        names_to_gguf(p, out);
    else
        names_to_hf(f->hp.family, p, "model.", out);
}

/* PyTorch and GGUF align numbers to their size; a file that does not cannot be read in place. */
static bool is_aligned(const tensor *t) {
    size_t size = t->dtype == DT_F32 ? 4 : t->dtype == DT_F16 || t->dtype == DT_BF16 ? 2 : 1;
    return (uintptr_t)t->data % size == 0;
}

static nib_status check(model_file *f, const tensor *t, nib_error *err) {
    const hparams *hp = &f->hp;
    if (!family_has(hp->family, t->place.slot) || t->place.expert != PLACE_NO_EXPERT)
        return model_note_words(f, err, "%s: tensor %s is not part of a %s network as nibble computes it",
                                f->path, QUOTEZ(t->name), family_name(hp->family));
    if (t->place.layer >= hp->n_layers)
        return model_note_words(f, err, "%s: tensor %s is not part of a %s network of %d layers", f->path,
                                QUOTEZ(t->name), family_name(hp->family), hp->n_layers);
    const tensor *first = model_file_find(f, t->place);
    if (first != t)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensors %s and %s are the same part of the network", f->path,
                        QUOTEZ(first->name), QUOTEZ(t->name));
    shape want = shape_of(hp, t->place.slot);
    if (t->rows != want.rows || t->cols != want.cols)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has the shape [%zu, %zu], expected [%zu, %zu]",
                        f->path, QUOTEZ(t->name), t->rows, t->cols, want.rows, want.cols);
    if (t->dtype == DT_NONE || !dtype_get(t->dtype)->is_weight)
        return model_note_words(f, err, "%s: tensor %s is stored as %s, which nibble does not decode",
                                f->path, QUOTEZ(t->name), model_file_format_name(f, t));
    if (!is_aligned(t))
        return model_note_words(f, err,
                                "%s: tensor %s does not start at a multiple of its element size, nibble "
                                "reads aligned files only",
                                f->path, QUOTEZ(t->name));
    if (want.rows == 1 && t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is stored as %s, expected F32, F16 or BF16",
                        f->path, QUOTEZ(t->name), model_file_format_name(f, t));
    return NIB_OK;
}

static nib_status need(const model_file *f, place p, nib_error *err) {
    if (model_file_find(f, p) || !family_has(f->hp.family, p.slot) || is_optional(&f->hp, p.slot))
        return NIB_OK;
    char name[NAMES_MAX];
    name_of(f, p, name);
    return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is missing", f->path, name);
}

nib_status model_shape_check(model_file *f, nib_error *err) {
    for (size_t i = 0; i < f->n_tensors; i++)
        if (f->tensors[i].place.slot != SLOT_NONE)
            NIB_TRY(check(f, &f->tensors[i], err));
    if (f->network_note[0])
        return NIB_OK; /* something else than nibble's idea of the family: what is missing says nothing */
    for (int s = SLOT_EMBED; s < SLOT_COUNT; s++) {
        for (int layer = 0; layer < f->hp.n_layers && place_is_in_layer(s); layer++)
            NIB_TRY(need(f, place_of(s, layer), err));
        if (!place_is_in_layer(s))
            NIB_TRY(need(f, place_of(s, PLACE_NO_LAYER), err));
    }
    f->has_network = true;
    return NIB_OK;
}
