/* SPDX-License-Identifier: Apache-2.0
 *
 * A network's tensors against its hyper-parameters: every tensor it needs is there once, in the shape it
 * needs, and none that its family does not have. What is missing or misshapen is a damaged file; what nibble
 * cannot read (an unknown block format) is a note.
 */
#include "base/quote.h"
#include "nouns/family.h"
#include "store/model_parts.h"
#include "store/names.h"

/* Of GGUF only, and optional: divisors of the RoPE frequencies. */
static bool is_rope_table(const hparams *hp, slot s) {
    if (s == SLOT_ROPE_LONG || s == SLOT_ROPE_SHORT)
        return hp->rope.kind == ROPE_LONGROPE;
    return s == SLOT_ROPE_FREQS && family_get(hp->family)->rope_freqs;
}

/* A number beside the network, which computes without it: a scale for caches in FP8. */
static bool is_cache_scale(slot s) {
    return s == SLOT_K_SCALE || s == SLOT_V_SCALE;
}

static nib_status check_cache_scale(model_file *f, const tensor *t, nib_error *err) {
    float scale = 0;
    if (t->rows * t->cols == 1 && dtype_get(t->dtype)->is_weight)
        tensor_decode_row(t, 0, &scale);
    if (!(scale >= CACHE_SCALE_LEAST && scale <= CACHE_SCALE_MOST))
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is no single number from %g to %g", f->path,
                        QUOTEZ(t->name), (double)CACHE_SCALE_LEAST, (double)CACHE_SCALE_MOST);
    if (f->n_notes == 0 || !strstr(f->notes[f->n_notes - 1], "KV cache in FP8"))
        return model_add_note(
            f, err,
            "%s: holds scales for a KV cache in FP8 (%s): used with --kv-cache-dtype fp8, on a GPU by "
            "default",
            f->path, QUOTEZ(t->name));
    return NIB_OK;
}

/* The name of a place in this file's convention, for sentences. */
static void name_of(const model_file *f, place p, char out[NAMES_MAX]) {
    if (f->format == FORMAT_GGUF)
        names_to_gguf(f->hp.family, p, out);
    else
        names_to_hf(f->hp.family, p, "model.", out);
}

static nib_status check(model_file *f, const tensor *t, nib_error *err) {
    const hparams *hp = &f->hp;
    size_t rows = 1, cols = (size_t)hp->rope_dim / 2;
    if (is_cache_scale(t->place.slot))
        return check_cache_scale(f, t, err);
    if ((!is_rope_table(hp, t->place.slot) && !hparams_has(hp, t->place.slot, &rows, &cols)) ||
        t->place.expert != PLACE_NO_EXPERT)
        return model_note_words(f, err, "%s: tensor %s is not part of a %s network as nibble computes it",
                                f->path, QUOTEZ(t->name), family_name(hp->family));
    if (t->place.layer >= hp->n_layers)
        return model_note_words(f, err, "%s: tensor %s is not part of a %s network of %d layers", f->path,
                                QUOTEZ(t->name), family_name(hp->family), hp->n_layers);
    const tensor *first = model_file_find(f, t->place);
    if (first != t)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensors %s and %s are the same part of the network", f->path,
                        QUOTEZ(first->name), QUOTEZ(t->name));
    if (t->rows != rows || t->cols != cols)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s has the shape [%zu, %zu], expected [%zu, %zu]",
                        f->path, QUOTEZ(t->name), t->rows, t->cols, rows, cols);
    if (t->dtype == DT_NONE || !dtype_get(t->dtype)->is_weight)
        return model_note_words(f, err, "%s: tensor %s is stored as %s, which nibble does not decode",
                                f->path, QUOTEZ(t->name), model_file_format_name(f, t));
    if (rows == 1 && t->dtype != DT_F32 && t->dtype != DT_F16 && t->dtype != DT_BF16)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s is stored as %s, expected F32, F16 or BF16",
                        f->path, QUOTEZ(t->name), model_file_format_name(f, t));
    return NIB_OK;
}

static nib_status need(const model_file *f, place p, nib_error *err) {
    size_t rows, cols;
    if (model_file_find(f, p) || !hparams_has(&f->hp, p.slot, &rows, &cols))
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
