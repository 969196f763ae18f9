/* SPDX-License-Identifier: Apache-2.0
 *
 * See shape_file.h. All matrices share one block of random codes and one of scales, as large as the largest
 * needs; a backend's packed copies are what differs in place.
 */
#include "store/shape_file.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "nouns/family.h"
#include "store/model_parts.h"

typedef struct shape_row {
    const char *name;
    family family;
    int dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab;
    int window, period;                /* all layers but each PERIOD-th see WINDOW keys; 0: all keys */
    float theta, theta_local, stretch; /* RoPE's base; of the layers with a window; by what the others'
                                          positions are divided, 0: nothing */
    bool tied;
} shape_row;

static const shape_row shape_rows[] = {
    {"smollm2-135m", FAMILY_LLAMA, 576, 30, 9, 3, 64, 1536, 49152, 0, 0, 1e5f, 1e5f, 0, false},
    {"llama3-1b", FAMILY_LLAMA, 2048, 16, 32, 8, 64, 8192, 128256, 0, 0, 5e5f, 5e5f, 0, true},
    {"qwen3-8b", FAMILY_QWEN3, 4096, 36, 32, 8, 128, 12288, 151936, 0, 0, 1e6f, 1e6f, 0, false},
    {"llama3-8b", FAMILY_LLAMA, 4096, 32, 32, 8, 128, 14336, 128256, 0, 0, 5e5f, 5e5f, 0, false},
    {"gemma3-27b", FAMILY_GEMMA3, 5376, 62, 32, 16, 128, 21504, 262208, 1024, 6, 1e6f, 1e4f, 8, true},
    {"qwen3-32b", FAMILY_QWEN3, 5120, 64, 64, 8, 128, 25600, 151936, 0, 0, 1e6f, 1e6f, 0, false},
    {"llama3-70b", FAMILY_LLAMA, 8192, 80, 64, 8, 128, 28672, 128256, 0, 0, 5e5f, 5e5f, 0, false},
};

/* What the tensors point at. */
typedef struct shape_bytes {
    uint8_t *codes, *scales;
    float *ones; /* [SHAPE_VECTOR] norm weights */
} shape_bytes;

enum { SHAPE_VECTOR = 65536 };

static hparams hparams_of(const shape_row *r) {
    hparams hp = family_get(r->family)->defaults;
    hp.family = r->family;
    hp.n_layers = r->n_layers, hp.dim = r->dim, hp.ffn_dim = r->ffn_dim;
    hp.n_heads = r->n_heads, hp.n_kv_heads = r->n_kv_heads, hp.head_dim = hp.rope_dim = r->head_dim;
    hp.vocab = r->vocab, hp.context_len = 131072, hp.tied = r->tied;
    hp.attn_scale = 1.0f / sqrtf((float)r->head_dim);
    hp.embed_scale = hp.embed_scale > 0 ? hp.embed_scale : 1;
    hp.residual_scale = hp.logit_scale = 1;
    hp.sliding_window = r->window;
    hp.rope.theta = r->theta, hp.rope_local.theta = r->theta_local;
    if (r->stretch > 0)
        hp.rope.kind = ROPE_LINEAR, hp.rope.factor = r->stretch;
    for (int i = 0; i < r->n_layers; i++)
        hp.local[i] = r->period > 0 && (i + 1) % r->period != 0;
    return hp;
}

/* N bytes, a multiple of 4, of random bits under MASK, plus BASE. */
static void fill_random(uint8_t *p, size_t n, uint32_t mask, uint32_t base) {
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < n; i += 4) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint32_t word = ((uint32_t)(x >> 32) & mask) + base;
        memcpy(p + i, &word, 4);
    }
}

static bool make_bytes(arena *a, const hparams *hp, shape_bytes *b) {
    size_t dim = (size_t)hp->dim, wide = (size_t)(hp->vocab > hp->ffn_dim ? hp->vocab : hp->ffn_dim);
    size_t codes = wide * dim / 2, scales = wide * dim / 16;
    b->codes = arena_alloc(a, codes, 1);
    b->scales = arena_alloc(a, scales, 1);
    b->ones = arena_alloc(a, SHAPE_VECTOR, sizeof *b->ones);
    if (!b->codes || !b->scales || !b->ones)
        return false;
    fill_random(b->codes, codes, ~0u, 0);
    fill_random(b->scales, scales, 0x07070707, 0x38383838);
    for (int i = 0; i < SHAPE_VECTOR; i++)
        b->ones[i] = hp->norm_plus_one ? 0 : 1;
    return true;
}

/* Codes are uniform over E2M1 (mean square 8.9), scales lie in 1 .. 2: weights of mean square 1 / cols. */
static tensor make_tensor(const shape_bytes *b, place at, size_t rows, size_t cols) {
    tensor t = {.name = "random", .place = at, .rows = rows, .cols = cols, .tensor_scale = 1};
    if (rows == 1) {
        t.dtype = DT_F32;
        t.n_dims = 1;
        t.dims[0] = cols;
        t.data = (const uint8_t *)b->ones;
        t.bytes = cols * sizeof(float);
        return t;
    }
    t.dtype = DT_NVFP4;
    t.n_dims = 2;
    t.dims[0] = rows, t.dims[1] = cols;
    t.data = b->codes;
    t.bytes = rows * cols / 2;
    t.block_scales = b->scales;
    t.tensor_scale = 1.0f / (3.0f * 1.45f * sqrtf((float)cols));
    return t;
}

static nib_status make_tensors(model_file *f, const shape_bytes *b, nib_error *err) {
    const size_t most = (size_t)(f->hp.n_layers + 1) * SLOT_COUNT;
    tensor *tensors = arena_alloc(&f->owned->arena, most, sizeof *tensors);
    f->owned->format_names = arena_alloc(&f->owned->arena, most, sizeof *f->owned->format_names);
    if (!tensors || !f->owned->format_names)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", f->path, most);
    for (int layer = -1; layer < f->hp.n_layers; layer++)
        for (int s = 1; s < SLOT_COUNT; s++) {
            size_t rows, cols;
            if (place_is_in_layer((slot)s) != (layer >= 0) || !hparams_has(&f->hp, (slot)s, &rows, &cols))
                continue;
            tensors[f->n_tensors] = make_tensor(b, place_of((slot)s, layer), rows, cols);
            f->owned->format_names[f->n_tensors] = dtype_get(tensors[f->n_tensors].dtype)->name;
            f->file_bytes += tensor_total_bytes(&tensors[f->n_tensors++]);
        }
    f->tensors = tensors;
    return model_index(f, err);
}

static nib_status fill(model_file *f, const shape_row *r, nib_error *err) {
    shape_bytes b;
    f->path = r->name;
    f->format = FORMAT_SAFETENSORS;
    f->has_network = true;
    f->network_note = "";
    f->hp = hparams_of(r);
    f->words = token_source_unset(r->name);
    if (!make_bytes(&f->owned->arena, &f->hp, &b))
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for random weights", r->name);
    return make_tensors(f, &b, err);
}

static const shape_row *find_shape(const char *name) {
    for (size_t i = 0; i < sizeof shape_rows / sizeof *shape_rows; i++)
        if (strcmp(shape_rows[i].name, name) == 0)
            return &shape_rows[i];
    return NULL;
}

bool shape_file_is(const char *name) {
    return find_shape(name) != NULL;
}

nib_status shape_file_open(model_file **out, const char *name, nib_error *err) {
    const shape_row *r = find_shape(name);
    *out = NULL;
    if (!r)
        return nib_fail(err, NIB_BAD_ARGUMENT, "no shape '%s'; expected " SHAPE_NAMES, name);
    model_file *f = mem_array(1, sizeof *f);
    struct model_file_owned *owned = mem_array(1, sizeof *owned);
    if (!f || !owned) {
        mem_free(f);
        mem_free(owned);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a model", name);
    }
    f->owned = owned;
    nib_status status = fill(f, r, err);
    if (status != NIB_OK) {
        model_file_close(f);
        return status;
    }
    *out = f;
    return NIB_OK;
}
