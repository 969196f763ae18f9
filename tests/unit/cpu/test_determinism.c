/* SPDX-License-Identifier: Apache-2.0
 *
 * The bits of a row: the same for any number of threads, however the prompt is cut into chunks, whoever
 * shares the batch. Two layers with every op, NVFP4 and BF16 weights, on every rung, in both activation modes
 * and all KV formats.
 */
#include "cpu_fixture.h"

#include "../sanitized.h"

enum { DIM = 96, FFN = 160, HEADS = 6, KV_HEADS = 2, HEAD_DIM = 64, LAYERS = 2, LENGTH = 135, VOCAB = 97 };
enum { QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM, MAX_ROWS = 512 };

typedef struct part {
    size_t rows, cols;
    void *data;
    uint8_t *scales;
    weight *w;
} part;

typedef struct net {
    backend *be;
    cache *kv;
    part embed, qkv, attn_out, gate_up, down;
    buf *x, *h, *wide, *q, *a, *act, *out;
    vec *norm, *head_norms[2], *inv_freq[2];
    attn_params attn[LAYERS];
} net;

/* Of one tensor, or of two with half the rows each. */
static void make_part(net *m, part *p, size_t rows, size_t cols, bool nvfp4, size_t n_parts, uint64_t seed) {
    uint64_t state = seed * 77777 + 1;
    *p = (part){.rows = rows, .cols = cols, .data = test_malloc(rows * cols * 2)};
    tensor t = {.name = "w",
                .dtype = nvfp4 ? DT_NVFP4 : DT_BF16,
                .rows = rows / n_parts,
                .cols = cols,
                .n_dims = 2,
                .dims = {rows / n_parts, cols},
                .data = p->data,
                .bytes = rows / n_parts * (nvfp4 ? cols / 2 : cols * 2),
                .tensor_scale = nvfp4 ? 0.03f : 1};
    if (nvfp4) {
        p->scales = test_malloc(rows * cols / 16);
        for (size_t i = 0; i < rows * cols / 2; i++)
            ((uint8_t *)p->data)[i] = (uint8_t)(fixture_random(&state) >> 20);
        for (size_t i = 0; i < rows * cols / 16; i++)
            p->scales[i] = (uint8_t)(0x28 + (fixture_random(&state) >> 20) % 24);
        t.block_scales = p->scales;
    } else {
        for (size_t i = 0; i < rows * cols; i++)
            ((uint16_t *)p->data)[i] = bf16_from_f32(0.15f * fixture_normal(&state));
    }
    tensor second = t;
    second.data = (const uint8_t *)t.data + t.bytes;
    second.block_scales = nvfp4 ? t.block_scales + t.bytes / 8 : NULL;
    const tensor *parts[] = {&t, &second};
    nib_error err;
    if (m->be->weight_pack(m->be, &p->w, parts, n_parts, SPLIT_NONE, &err) != NIB_OK)
        fail_msg("%s", err.text);
}

static void net_open(net *m, uint32_t features, int threads, nib_activations mode, nib_kv_dtype type) {
    memset(m, 0, sizeof *m);
    m->be = fixture_open(features, threads, mode);
    assert_true(m->be->row_bits_fixed); /* the promise that is tried here */
    make_part(m, &m->embed, VOCAB, DIM, false, 1, 1);
    make_part(m, &m->qkv, QKV, DIM, true, 1, 2);
    make_part(m, &m->attn_out, DIM, HEADS * HEAD_DIM, false, 1, 3);
    make_part(m, &m->gate_up, 2 * FFN, DIM, true, 2, 4);
    make_part(m, &m->down, DIM, FFN, true, 1, 5);
    m->x = fixture_buf(m->be, BUF_F32, MAX_ROWS, DIM);
    m->h = fixture_buf(m->be, BUF_ACT, MAX_ROWS, DIM);
    m->wide = fixture_buf(m->be, BUF_F32, MAX_ROWS, QKV);
    m->q = fixture_buf(m->be, BUF_F32, MAX_ROWS, HEADS * HEAD_DIM);
    m->a = fixture_buf(m->be, BUF_ACT, MAX_ROWS, HEADS * HEAD_DIM);
    m->act = fixture_buf(m->be, BUF_ACT, MAX_ROWS, FFN);
    m->out = fixture_buf(m->be, BUF_F32, MAX_ROWS, DIM);
    float norm[FFN], inv_freq[2][HEAD_DIM / 2];
    fixture_fill(norm, FFN, PATTERN_NORMAL, 0, 9);
    for (size_t i = 0; i < HEAD_DIM / 2; i++) {
        inv_freq[0][i] = (float)pow(10000, -2.0 * (double)i / HEAD_DIM);
        inv_freq[1][i] = (float)pow(500, -2.0 * (double)i / HEAD_DIM);
    }
    m->norm = fixture_vec(m->be, norm, DIM);
    for (int i = 0; i < 2; i++) {
        m->head_norms[i] = fixture_vec(m->be, norm + 64 * i, HEAD_DIM);
        m->inv_freq[i] = fixture_vec(m->be, inv_freq[i], HEAD_DIM / 2);
    }
    m->kv = fixture_cache(m->be, type, LAYERS, KV_HEADS, HEAD_DIM, FIXTURE_SEQS * FIXTURE_PAGES);
}

static void net_close(net *m) {
    part *parts[] = {&m->embed, &m->qkv, &m->attn_out, &m->gate_up, &m->down};
    buf *bufs[] = {m->x, m->h, m->wide, m->q, m->a, m->act, m->out};
    for (size_t i = 0; i < 5; i++) {
        m->be->weight_free(m->be, parts[i]->w);
        test_free(parts[i]->data);
        if (parts[i]->scales)
            test_free(parts[i]->scales);
    }
    for (size_t i = 0; i < 7; i++)
        m->be->buf_free(m->be, bufs[i]);
    m->be->cache_free(m->be, m->kv);
    m->be->vec_free(m->be, m->norm);
    for (int i = 0; i < 2; i++) {
        m->be->vec_free(m->be, m->head_norms[i]);
        m->be->vec_free(m->be, m->inv_freq[i]);
    }
    m->be->close(m->be);
}

/* Layer 0 looks at everything, layer 1 through a window and with other frequencies. */
static void net_step(net *m, const fixture_batch *f) {
    backend *be = m->be;
    step_begin(be, &f->b, 0);
    op_embed(be, m->x, m->embed.w, 2.5f);
    for (int layer = 0; layer < LAYERS; layer++) {
        attn_params *p = &m->attn[layer];
        *p = (attn_params){.layer = layer,
                           .n_heads = HEADS,
                           .n_kv_heads = KV_HEADS,
                           .head_dim = HEAD_DIM,
                           .q_norm = layer ? m->head_norms[0] : NULL,
                           .k_norm = layer ? m->head_norms[1] : NULL,
                           .norm_eps = 1e-6f,
                           .inv_freq = m->inv_freq[layer],
                           .rope_scale = 1,
                           .interleaved = layer == 0,
                           .scale = 0.2f,
                           .window = layer ? 70 : 0};
        op_rmsnorm(be, m->h, m->x, m->norm, 1e-6f, m->qkv.w);
        op_matmul(be, m->wide, m->h, m->qkv.w, NULL);
        op_qk_norm_rope_store(be, m->q, m->wide, p, m->kv);
        op_attention(be, m->a, m->q, p, m->kv, m->attn_out.w);
        op_matmul_add(be, m->x, m->a, m->attn_out.w, NULL);
        op_rmsnorm(be, m->h, m->x, m->norm, 1e-6f, m->gate_up.w);
        op_matmul_glu(be, m->act, m->h, m->gate_up.w, layer ? GLU_GELU_TANH : GLU_SILU, m->down.w);
        op_matmul(be, m->out, m->act, m->down.w, NULL);
        op_rmsnorm_add(be, m->x, m->out, m->norm, 1e-6f);
    }
    fixture_finish(be);
}

/* Rows of sequence 0, [LENGTH, DIM], computed in chunks of CHUNK rows (0: irregular) while MATES other
 * sequences run along. */
static void compute(net *m, int chunk, int mates, float *rows) {
    int irregular[] = {1, 62, 2, 5, 64, 63}, step = 0;
    for (int pos = 0; pos < LENGTH; step++) {
        int n = chunk ? chunk : irregular[step % 6];
        n = n < LENGTH - pos ? n : LENGTH - pos;
        fixture_batch *f = test_calloc(1, sizeof *f);
        for (int s = 1; s <= mates / 2; s++)
            fixture_add(f, s, step * (3 + s), 3 + s);
        fixture_add(f, 0, pos, n);
        for (int s = mates / 2 + 1; s <= mates; s++)
            fixture_add(f, s, step, 1);
        net_step(m, f);
        const float *x = m->be->buf_view(m->be, m->x) + (size_t)f->seqs[mates / 2].row * DIM;
        memcpy(rows + (size_t)pos * DIM, x, (size_t)n * DIM * sizeof *rows);
        test_free(f);
        pos += n;
    }
}

static void check(uint32_t features, nib_activations mode, nib_kv_dtype type) {
    static const struct {
        int threads, chunk, mates;
    } ways[] = {{1, LENGTH, 0}, {2, LENGTH, 0}, {5, 64, 0}, {2, 7, 0},
                {2, 0, 5},      {3, 33, 7},     {1, 50, 4}, {2, 1, 0}};
    float *want = test_malloc(LENGTH * DIM * sizeof *want), *got = test_malloc(LENGTH * DIM * sizeof *got);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        net m;
        net_open(&m, features, ways[i].threads, mode, type);
        compute(&m, ways[i].chunk, ways[i].mates, i ? got : want);
        for (size_t j = 0; j < LENGTH * DIM; j++)
            assert_true(isfinite(want[j]));
        if (i && memcmp(got, want, LENGTH * DIM * sizeof *got) != 0) {
            size_t at = 0;
            while (f32_bits(got[at]) == f32_bits(want[at]))
                at++;
            fail_msg("%s, KV %d: %d threads, chunks of %d, %d mates: row %zu differs, %.9g is not %.9g",
                     m.be->path, (int)type, ways[i].threads, ways[i].chunk, ways[i].mates, at / DIM,
                     (double)got[at], (double)want[at]);
        }
        net_close(&m);
    }
    test_free(want);
    test_free(got);
}

static void test_same_bits(void **state) {
    (void)state;
    for (size_t rung = SANITIZED; rung < fixture_n_rungs(); rung++) /* the scalar one is slow */
        for (int mode = NIB_ACTIVATIONS_F32; mode <= NIB_ACTIVATIONS_INT8; mode++)
            check(fixture_rungs[rung], (nib_activations)mode, NIB_KV_BF16);
}

static void test_same_bits_other_kv(void **state) {
    (void)state;
    for (size_t rung = 1; rung < fixture_n_rungs() && rung < 3; rung++) {
        check(fixture_rungs[rung], NIB_ACTIVATIONS_INT8, NIB_KV_FP8);
        check(fixture_rungs[rung], NIB_ACTIVATIONS_F32, NIB_KV_FP32);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_same_bits_other_kv)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
