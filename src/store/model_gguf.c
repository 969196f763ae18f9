/* SPDX-License-Identifier: Apache-2.0
 *
 * A GGUF model: one file, or the parts of a split one, to model_file.
 */
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#include "base/mem.h"
#include "base/quote.h"
#include "nouns/family.h"
#include "store/config.h"
#include "store/model_parts.h"

/* "PREFIX-00001-of-00003.gguf" to part I (0-based) of N; NULL when the name has another form. */
static char *part_path(model_file *f, int i, int n) {
    size_t length = strlen(f->path);
    char tail[32];
    int tail_n = snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", 1, n);
    if (length < (size_t)tail_n || strcasecmp(f->path + length - (size_t)tail_n, tail) != 0)
        return NULL;
    return arena_format(&f->owned->arena, "%.*s-%05d-of-%05d%s", (int)(length - (size_t)tail_n), f->path,
                        i + 1, n, f->path + length - strlen(".gguf"));
}

static nib_status open_part(model_file *f, int i, int n, nib_error *err) {
    int64_t number = 0, count = 0;
    const char *path = part_path(f, i, n);
    if (!path)
        return nib_fail(err, NIB_BAD_FILE, "%s: the first of %d parts must be named ...-00001-of-%05d.gguf",
                        f->path, n, n);
    gguf *part = &f->owned->parts[i];
    f->owned->n_parts = i + 1; /* closed with the model, also after a failure */
    NIB_TRY(gguf_open(part, path, err));
    NIB_TRY(gguf_get_int(part, "split.no", 0, MODEL_MAX_FILES, &number, NULL, err));
    NIB_TRY(gguf_get_int(part, "split.count", 0, MODEL_MAX_FILES, &count, NULL, err));
    if (number != i || count != n)
        return nib_fail(err, NIB_BAD_FILE, "%s: says it is part %d of %d, expected %d of %d", path,
                        (int)number + 1, (int)count, i + 1, n);
    f->file_bytes += part->map.size;
    return NIB_OK;
}

static nib_status open_parts(model_file *f, nib_error *err) {
    struct model_file_owned *o = f->owned;
    int64_t n = 1, number = 0, total = 0;
    bool found;
    gguf first;
    nib_status status = gguf_open(&first, f->path, err);
    if (status == NIB_OK)
        status = gguf_get_int(&first, "split.count", 0, MODEL_MAX_FILES, &n, &found, err);
    if (status == NIB_OK)
        status = gguf_get_int(&first, "split.no", 0, MODEL_MAX_FILES, &number, &found, err);
    if (status == NIB_OK)
        status = gguf_get_int(&first, "split.tensors.count", 0, INT32_MAX, &total, &found, err);
    if (status == NIB_OK && number != 0)
        status = nib_fail(err, NIB_BAD_FILE, "%s: part %d of a split file, give the first part", f->path,
                          (int)number + 1);
    if (n < 1)
        n = 1;
    if (status == NIB_OK && !(o->parts = arena_alloc(&o->arena, (size_t)n, sizeof *o->parts)))
        status = nib_fail(err, NIB_NO_MEMORY, "%s: no memory", f->path);
    if (status != NIB_OK) {
        gguf_close(&first);
        return status;
    }
    o->parts[0] = first;
    o->n_parts = 1;
    f->file_bytes = first.map.size;
    if (n > 1 && !part_path(f, 0, (int)n))
        return nib_fail(err, NIB_BAD_FILE, "%s: the first of %d parts must be named ...-00001-of-%05d.gguf",
                        f->path, (int)n, (int)n);
    size_t n_tensors = o->parts[0].n_tensors;
    for (int i = 1; i < n; i++) {
        NIB_TRY(open_part(f, i, (int)n, err));
        n_tensors += o->parts[i].n_tensors;
    }
    if (n > 1 && total && (size_t)total != n_tensors)
        return nib_fail(err, NIB_BAD_FILE, "%s: %d parts hold %zu tensors, split.tensors.count says %d",
                        f->path, (int)n, n_tensors, (int)total);
    return NIB_OK;
}

static void fill_raw(const gguf *part, const gguf_tensor *t, model_raw *r) {
    *r = (model_raw){.name = t->name,
                     .format_name = gguf_ggml_name(t->ggml_type),
                     .where = part->where,
                     .dtype = t->dtype,
                     .n_dims = t->n_dims,
                     .data = t->data,
                     .bytes = t->bytes};
    for (int i = 0; i < t->n_dims; i++)
        r->dims[i] = (size_t)t->dims[t->n_dims - 1 - i];
}

static nib_status fold(model_file *f, nib_error *err) {
    const struct model_file_owned *o = f->owned;
    size_t n = 0, total = 0;
    for (int i = 0; i < o->n_parts; i++)
        total += o->parts[i].n_tensors;
    model_raw *raws = mem_array(total, sizeof *raws);
    if (!raws)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", f->path, total);
    for (int i = 0; i < o->n_parts; i++)
        for (size_t j = 0; j < o->parts[i].n_tensors; j++)
            fill_raw(&o->parts[i], &o->parts[i].tensors[j], &raws[n++]);
    nib_status status = model_fold(f, raws, n, err);
    mem_free(raws);
    return status;
}

static bool is_quantized(const model_file *f) {
    for (size_t i = 0; i < f->n_tensors; i++)
        if (dtype_get(f->tensors[i].dtype)->block > 1 || f->tensors[i].dtype == DT_NONE)
            return true;
    return false;
}

static const gguf_tensor *find_stored(const model_file *f, const char *name) {
    const gguf_tensor *t = NULL;
    for (int i = 0; i < f->owned->n_parts && !t; i++)
        t = gguf_find_tensor(&f->owned->parts[i], name);
    return t;
}

/* Rows of the embedding, whether there is a head, and whether there are biases, straight from the parts:
 * names are not folded yet. */
static nib_status read_network(model_file *f, nib_error *err) {
    const gguf_tensor *embed = find_stored(f, "token_embd.weight"), *head = find_stored(f, "output.weight");
    int32_t vocab =
        embed && embed->n_dims == 2 && embed->dims[1] <= CONFIG_MAX_VOCAB ? (int32_t)embed->dims[1] : 0;
    nib_error problem;
    NIB_TRY(model_note(f, config_from_gguf(&f->hp, f->gguf, vocab, head == NULL, &problem), &problem, err));
    if (family_get(f->hp.family)->attention_bias) {
        f->hp.qkv_bias = find_stored(f, "blk.0.attn_q.bias") != NULL;
        f->hp.o_bias = find_stored(f, "blk.0.attn_output.bias") != NULL;
    }
    if (f->network_note[0])
        return NIB_OK;
    if (f->n_files == 1 && f->gguf->n_tensors == 0)
        return model_note_words(f, err, "%s: holds no tensors, only a vocabulary", f->path);
    if (!embed)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor token_embd.weight is missing", f->path);
    if (!vocab)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor token_embd.weight has no shape of at most %d rows",
                        f->path, CONFIG_MAX_VOCAB);
    return NIB_OK;
}

/* longrope's divisors, one per pair, out of the tensor in SLOT. */
static nib_status read_divisors(const model_file *f, slot s, float *out, nib_error *err) {
    const tensor *t = model_file_find(f, place_of(s, PLACE_NO_LAYER));
    if (!t || t->cols > ROPE_MAX_PAIRS)
        return nib_fail(
            err, NIB_BAD_FILE, "%s: longrope scaling asks for a tensor %s of at most %d divisors", f->path,
            s == SLOT_ROPE_LONG ? "rope_factors_long.weight" : "rope_factors_short.weight", ROPE_MAX_PAIRS);
    tensor_decode_row(t, 0, out);
    for (size_t i = 0; i < t->cols; i++)
        if (!(out[i] > 0))
            return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds a divisor of %g, expected more than 0",
                            f->path, QUOTEZ(t->name), (double)out[i]);
    return NIB_OK;
}

static nib_status check_network(model_file *f, nib_error *err) {
    rope_params *rope = &f->hp.rope;
    NIB_TRY(model_shape_check(f, err));
    if (!f->has_network || rope->kind != ROPE_LONGROPE)
        return NIB_OK;
    NIB_TRY(read_divisors(f, SLOT_ROPE_SHORT, rope->short_divisors, err));
    NIB_TRY(read_divisors(f, SLOT_ROPE_LONG, rope->long_divisors, err));
    if (!family_get(f->hp.family)->local_rope)
        f->hp.rope_local = *rope;
    return NIB_OK;
}

nib_status model_gguf_open(model_file *f, bool words_only, nib_error *err) {
    f->format = FORMAT_GGUF;
    NIB_TRY(open_parts(f, err));
    f->gguf = &f->owned->parts[0];
    f->n_files = f->owned->n_parts;
    if (words_only)
        return model_gguf_words(f, err);
    NIB_TRY(read_network(f, err));
    NIB_TRY(fold(f, err));
    f->convention = is_quantized(f) ? QUANT_GGUF : QUANT_NONE;
    if (!f->network_note[0])
        NIB_TRY(check_network(f, err));
    return model_gguf_words(f, err);
}
