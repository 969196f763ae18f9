/* SPDX-License-Identifier: Apache-2.0
 *
 * The ops of one row, or of two, gathered into a pass (cuda/pass.h), which is one launch. Each call takes an
 * op, or answers false: then the op is launched by itself, and what was gathered before it (gather_launch). A
 * pass is layers of norm and q, k, v; attention; its output added; norm, gate and up with their unit; down
 * added and at the end, maybe, a norm and the product that gives logits; what is added may be normed first.
 * Values in between are nowhere else (gone), but those of the last op and the stream.
 *
 * Whether a pass takes a layer is decided once, when its weights have been packed (gather_know): a pass of a
 * few ops of each layer would be slower than their own launches.
 */
#include <assert.h>
#include <string.h>

#include "cuda/gpu/state.h"

enum { PLACE_BYTES = 1 << 18, MOST_KV_HEADS = 16, COUNTERS_BYTES = 256 };

/* Of passes of ROWS rows: tags are right only where uses are of one size. */
static size_t set_bytes(int rows) {
    const size_t parts = (size_t)MOST_KV_HEADS * PASS_SPLITS * PASS_COLUMNS * (128 + 2) * sizeof(uint64_t);
    return COUNTERS_BYTES + (size_t)rows * parts + (size_t)PASS_NOWHERE * PLACE_BYTES;
}

static size_t memory_bytes(void) {
    return set_bytes(1) + set_bytes(PASS_ROWS);
}

nib_status gather_new(cuda_backend *cb, nib_error *err) {
    int cooperates = 0;
    if (!cb->lane.wgmma)
        return NIB_OK;
    CUDA_TRY(cudaDeviceGetAttribute(&cooperates, cudaDevAttrCooperativeLaunch, cb->device), err,
             "opening the device");
    if (!cooperates)
        return NIB_OK;
    for (int i = 0; i < GATHER_SETS; i++)
        NIB_TRY(cuda_alloc(cb, &cb->gathered.sets[i].memory, memory_bytes(), "values between layers", err));
    return NIB_OK;
}

void gather_release(cuda_backend *cb) {
    for (int i = 0; i < GATHER_SETS; i++)
        cudaFree(cb->gathered.sets[i].memory);
}

static void place_all(pass *p, gather_set *s) {
    uint8_t *at = (uint8_t *)s->memory + (p->n_rows == 1 ? 0 : set_bytes(1));
    p->counters = (uint32_t *)(void *)at;
    at += COUNTERS_BYTES;
    for (int i = 0; i < PASS_NOWHERE; i++, at += PLACE_BYTES)
        p->places[i] = (uint32_t *)(void *)at;
    p->parts = (uint64_t *)(void *)at;
}

/* The last branch is added to the stream by a product of no rows. */
static void join_last(pass *p) {
    const pass_op *branch = &p->ops[p->n_ops - 1];
    pass_op *op = &p->ops[p->n_ops++];
    *op = (pass_op){.kind = PASS_NORMED, .from = branch->to, .to = PASS_NOWHERE};
    op->product.norm = branch->product.norm;
    op->product.k = p->hidden;
    op->product.groups = (int)gemm_groups((size_t)p->hidden);
}

void gather_launch(cuda_backend *cb) {
    gathered *all = &cb->gathered;
    pass *p = &all->pass;
    if (p->n_ops == 0)
        return;
    p->ops[p->n_ops - 1].plain = all->last->data;
    p->plain_stride = (int)all->last->stride;
    if (all->last_add)
        all->last_add->plain = p->stream;
    if (p->branches && all->last_add == &p->ops[p->n_ops - 1])
        join_last(p);
    /* The op behind the first branch reads the stream where it would write it for later kernels, and other
     * blocks with it: so it is a product of no rows, whose x nobody needs. Layers come whole. */
    assert(!p->branches || all->last_add != &p->ops[2] ||
           (p->n_ops == 4 && p->ops[3].kind == PASS_NORMED && p->ops[3].to == PASS_NOWHERE));
    all->loose = NULL;
    step_op(cb, CALL_LAYERS);
    int code = pass_launch(&cb->lane, p);
    p->n_ops = 0;
    step_end(cb, CALL_LAYERS, code, 0);
}

static bool one_fp4(const cuda_weight *w) {
    return cuda_is_bare(w) && w->n_fp4 == 1 && w->fp4[0]->n % 16 == 0;
}

/* ---- layers ---- */

/* How many values a layer hands over at each place: beside a branch the stream. */
static void sizes_of(int sizes[PASS_NOWHERE], const layer_parts *l) {
    sizes[PASS_STREAM] = sizes[PASS_STREAM + 1] = (int)l->qkv->cols * (l->norms == NORM_AROUND ? 2 : 1);
    sizes[PASS_QKV] = (int)l->qkv->rows;
    sizes[PASS_HEADS] = (int)l->attn_out->cols;
    sizes[PASS_UNIT] = (int)l->down->cols;
}

static bool places_hold(const int sizes[PASS_NOWHERE], int rows) {
    for (int i = 0; i < PASS_NOWHERE; i++)
        if ((size_t)sizes[i] * (size_t)rows * sizeof(float) > PLACE_BYTES)
            return false;
    return true;
}

static bool takes_matrices(const layer_parts *l) {
    const weight *const all[] = {l->qkv, l->attn_out, l->gate_up, l->down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!one_fp4((const cuda_weight *)all[i]))
            return false;
    return l->qkv->n_parts == 3 && l->qkv->cols % 16 == 0 && l->gate_up->rows % 32 == 0 &&
           l->gate_up->cols == l->qkv->cols && l->attn_out->rows == l->qkv->cols &&
           l->down->rows == l->qkv->cols && l->gate_up->rows == 2 * l->down->cols;
}

static bool takes_attention(cuda_backend *cb, const attn_params *p, int hidden, int max_k, bool branches,
                            int rows) {
    const attn_view view = attend_view(p);
    return !attn_norms_rows(p) && p->n_kv_heads <= MOST_KV_HEADS &&
           decode_makes(&cb->lane, &view, KV_FP8, rows) &&
           pass_serves(&cb->lane, &view, KV_FP8, hidden, max_k, branches, rows) &&
           pass_resides(&cb->lane, &view, hidden, max_k, branches, rows);
}

/* How many rows a pass over such layers takes, SIZES being theirs; 0: there is none. Where the stream has row
 * tiles for fewer than three quarters of the multiprocessors kernels by themselves are faster. */
static int most_rows(cuda_backend *cb, const layer_parts *l, const int sizes[PASS_NOWHERE]) {
    const int heads = sizes[PASS_HEADS], unit = sizes[PASS_UNIT], hidden = (int)l->qkv->cols;
    const int wide = heads > unit ? heads : unit, max_k = wide > hidden ? wide : hidden;
    int rows = 0;
    if (4 * pass_blocks(&cb->lane, hidden) < 3 * cb->lane.n_sms)
        return 0;
    while (rows < PASS_ROWS && places_hold(sizes, rows + 1) &&
           takes_attention(cb, l->attn, hidden, max_k, l->norms == NORM_AROUND, rows + 1))
        rows++;
    return rows;
}

/* The set of layers with such SIZES: tags are right only where uses are of one size. */
static gather_set *find_set(gathered *all, const int sizes[PASS_NOWHERE]) {
    gather_set *empty = NULL;
    for (int i = GATHER_SETS - 1; i >= 0; i--) {
        gather_set *s = &all->sets[i];
        if (s->memory && s->n_layers > 0 && memcmp(s->sizes, sizes, sizeof s->sizes) == 0)
            return s;
        if (s->memory && s->n_layers == 0)
            empty = s;
    }
    if (empty)
        memcpy(empty->sizes, sizes, sizeof empty->sizes);
    return empty;
}

void gather_know(backend *be, const layer_parts *l) {
    cuda_backend *cb = cuda_of(be);
    int sizes[PASS_NOWHERE] = {0};
    cuda_weight *w = (cuda_weight *)(uintptr_t)l->qkv;
    if (w->is_known)
        return;
    w->is_known = true;
    cb->gathered.n_layers++;
    sizes_of(sizes, l);
    if (cuda_fuses(cb) && l->norms != NORM_AFTER && takes_matrices(l))
        w->pass_rows = most_rows(cb, l, sizes);
    if (w->pass_rows > 0)
        w->set = find_set(&cb->gathered, sizes);
    if (w->set) {
        w->set->n_layers++;
        cb->gathered.n_taken++;
        cb->gathered.n_paired += w->pass_rows > 1;
    }
    cuda_describe(cb);
}

/* A set that no layer uses any more becomes what it was at first; where that fails, passes would wait for
 * each other's values for ever. */
void gather_forget(cuda_backend *cb, const cuda_weight *w) {
    cb->gathered.n_layers -= w->is_known;
    if (!w->set)
        return;
    cb->gathered.n_taken--;
    cb->gathered.n_paired -= w->pass_rows > 1;
    if (--w->set->n_layers == 0 &&
        (cudaSetDevice(cb->device) != cudaSuccess ||
         cudaMemsetAsync(w->set->memory, 0, memory_bytes(), cb->stream) != cudaSuccess))
        cb->gathered.refused = true;
}

/* ---- ops ---- */

/* Room for one more, after STAGE ops of a layer; nothing else waits. */
static bool open_at(const cuda_backend *cb, int stage) {
    const gathered *all = &cb->gathered;
    return all->pass.n_ops > 0 && all->pass.n_ops < PASS_OPS && all->stage == stage && !all->loose &&
           !cb->waiting.out && !cb->unmade.q;
}

static pass_op *append(gathered *all, pass_kind kind, pass_place from, pass_place to, cuda_buf *out) {
    pass_op *op = &all->pass.ops[all->pass.n_ops++];
    *op = (pass_op){.kind = (uint8_t)kind, .from = (uint8_t)from, .to = (uint8_t)to};
    all->last = out;
    all->stage = (all->stage + 1) % GATHER_STAGES;
    return op;
}

static void set_product(pass *p, pass_op *op, const cuda_weight *w, const gemm_norm *norm, const vec *bias) {
    const nib_gemm_weight *packed = w->fp4[0];
    op->product.w = packed->data;
    op->product.norm = norm ? norm->w : NULL;
    op->product.eps = norm ? norm->eps : 0.0f;
    op->product.bias = bias ? ((const cuda_vec *)bias)->data : NULL;
    const int tiles = (int)packed->n / GEMM_ROW_TILE / (op->kind == PASS_GATED ? 2 : 1);
    op->product.scale = gemm_tensor_scale(packed->data, packed->n, packed->k);
    op->product.k = (int)packed->k;
    op->product.groups = (int)gemm_groups(packed->k);
    op->product.rounds = tiles / p->n_blocks;
    op->product.rest = (int16_t)(tiles % p->n_blocks);
    op->product.twin = op->kind == PASS_GATED ? tiles : 0;
    /* blocks with one more tile of the output are late, and have no more of what comes next */
    op->product.first =
        (int16_t)(p->branches && op->kind == PASS_GATED ? p->hidden / GEMM_ROW_TILE % p->n_blocks : 0);
    p->max_k = op->product.k > p->max_k ? op->product.k : p->max_k;
}

/* Whether the step's layers, of which W is the first's q, k, v, may become a pass. */
static bool may_begin(const cuda_backend *cb, const cuda_weight *w) {
    const int rows = cb->table.n_rows;
    return !cb->profiling && !cb->lacking && w->set && rows <= w->pass_rows && cb->table.n_alone == rows &&
           cb->gathered.n_wide_caches == 0 && !cb->gathered.refused;
}

static bool begin(cuda_backend *cb, const cuda_weight *w) {
    gathered *all = &cb->gathered;
    const size_t hidden = w->head.cols;
    if (!may_begin(cb, w))
        return false;
    all->set = w->set;
    all->pass.n_views = all->pass.max_k = all->stage = 0;
    all->pass.hidden = (int)hidden;
    all->pass.n_rows = cb->table.n_rows;
    all->pass.n_blocks = pass_blocks(&cb->lane, (int)hidden);
    all->pass.branches = w->set->sizes[PASS_STREAM] != (int)hidden;
    all->pass.stream = (float *)(uintptr_t)cb->waiting.norm.x;
    all->pass.stream_stride = (int)cb->waiting.x_stride;
    all->last_add = NULL;
    all->from = PASS_NOWHERE;
    place_all(&all->pass, all->set);
    return true;
}

bool gather_awaits(const cuda_backend *cb, const cuda_buf *x, const weight *reader) {
    const gathered *all = &cb->gathered;
    const cuda_weight *w = (const cuda_weight *)reader;
    if ((int)x->head.rows != cb->table.n_rows)
        return false;
    if (all->pass.n_ops == 0)
        return may_begin(cb, w);
    return (open_at(cb, 0) || open_at(cb, 3)) && x->data == (void *)all->pass.stream;
}

bool gather_normed(cuda_backend *cb, cuda_buf *out, const weight *weight_head, const vec *bias) {
    gathered *all = &cb->gathered;
    const cuda_weight *w = (const cuda_weight *)weight_head;
    const bool more = open_at(cb, 0);
    if (!one_fp4(w) || cb->lane.off || (all->pass.n_ops > 0 && !more) || (!more && !begin(cb, w)) ||
        cb->waiting.norm.x != all->pass.stream || (int)w->fp4[0]->k != all->pass.hidden)
        return false;
    const bool last = !w->set;
    if (last ? w->head.n_parts != 1
             : w->set != all->set || w->pass_rows < all->pass.n_rows ||
                   all->pass.n_ops + GATHER_STAGES >= PASS_OPS)
        return false;
    out->format = ACT_F32;
    out->gone = false;
    set_product(&all->pass, append(all, PASS_NORMED, all->from, last ? PASS_NOWHERE : PASS_QKV, out), w,
                &cb->waiting.norm, bias);
    if (last)
        gather_launch(cb);
    return true;
}

/* The view of such layers; all of one cache group, whose FIRST_PAGE it is, have their values equally far from
 * their keys. */
static int find_view(pass *p, const attn_view *view, const kv_view *kv, const step_view *step) {
    for (int i = 0; i < p->n_views; i++) {
        const pass_view *v = &p->views[i];
        if (v->step.first_page == step->first_page && v->p.n_heads == view->n_heads &&
            v->p.n_kv_heads == view->n_kv_heads && v->p.inv_freq == view->inv_freq &&
            v->p.n_freq == view->n_freq && v->p.norm_eps == view->norm_eps &&
            v->p.rope_scale == view->rope_scale && v->p.interleaved == view->interleaved &&
            v->p.scale == view->scale && v->p.window == view->window && v->p.cap == view->cap &&
            v->p.query_log == view->query_log && v->p.query_log_len == view->query_log_len)
            return i;
    }
    if (p->n_views == PASS_VIEWS)
        return -1;
    p->views[p->n_views] = (pass_view){*view, *step, (uint8_t *)kv->v - (uint8_t *)kv->k,
                                       (uint8_t *)kv->v_scales - (uint8_t *)kv->k_scales};
    return p->n_views++;
}

bool gather_attend(cuda_backend *cb, cuda_buf *out, cuda_buf *qkv, const attn_view *view, const kv_view *kv,
                   const step_view *step) {
    gathered *all = &cb->gathered;
    pass *p = &all->pass;
    if (!open_at(cb, 1) || all->last != qkv || view->n_kv_heads > MOST_KV_HEADS ||
        (p->n_views > 0 && (p->format != kv->format || p->views[0].p.head_dim != view->head_dim)) ||
        !pass_serves(&cb->lane, view, kv->format, p->hidden, p->max_k, p->branches, p->n_rows) ||
        (view->n_heads + 2 * view->n_kv_heads) * view->head_dim != all->set->sizes[PASS_QKV] ||
        view->n_heads * view->head_dim != all->set->sizes[PASS_HEADS])
        return false;
    const int at = find_view(p, view, kv, step);
    if (at < 0)
        return false;
    p->format = kv->format;
    qkv->gone = true;
    pass_op *op = append(all, PASS_ATTEND, PASS_QKV, PASS_HEADS, out);
    op->view = at;
    op->attention.q_norm = view->q_norm;
    op->attention.k_norm = view->k_norm;
    op->attention.k_mean = view->k_mean;
    op->attention.k = kv->k;
    op->attention.k_scales = kv->k_scales;
    op->attention.k_scale = view->k_scale;
    op->attention.v_scale = view->v_scale;
    return true;
}

/* Whether the product of A and W is the next op, the output of one of the halves. */
static bool takes_output(const cuda_backend *cb, const cuda_buf *a, const cuda_weight *w) {
    const gathered *all = &cb->gathered;
    const pass *p = &all->pass;
    const bool second = all->stage == 4;
    return one_fp4(w) && open_at(cb, second ? 4 : 2) && all->last == a && (int)w->fp4[0]->n == p->hidden &&
           p->n_views > 0 && (int)w->fp4[0]->k == all->set->sizes[second ? PASS_UNIT : PASS_HEADS] &&
           pass_serves(&cb->lane, &p->views[0].p, p->format, p->hidden, (int)w->fp4[0]->k, p->branches,
                       p->n_rows);
}

static pass_op *append_output(gathered *all, pass_kind kind, pass_place to, cuda_buf *out,
                              const cuda_weight *w, const vec *bias) {
    pass_op *op = append(all, kind, all->stage == 4 ? PASS_UNIT : PASS_HEADS, to, out);
    set_product(&all->pass, op, w, NULL, bias);
    return op;
}

static pass_place next_place(const gathered *all) {
    return all->from == PASS_STREAM ? PASS_STREAM + 1 : PASS_STREAM;
}

bool gather_add(cuda_backend *cb, cuda_buf *stream, cuda_buf *a, const weight *w, const vec *bias) {
    gathered *all = &cb->gathered;
    if (!takes_output(cb, a, (const cuda_weight *)w) || all->pass.branches ||
        stream->data != (void *)all->pass.stream)
        return false;
    a->gone = true;
    const pass_place to = next_place(all);
    all->last_add = append_output(all, PASS_ADD, to, stream, (const cuda_weight *)w, bias);
    all->from = to;
    return true;
}

/* Nobody in the pass has it until gather_join names its norm. */
bool gather_branch(cuda_backend *cb, cuda_buf *out, cuda_buf *a, const weight *w, const vec *bias) {
    gathered *all = &cb->gathered;
    if (!takes_output(cb, a, (const cuda_weight *)w) || !all->pass.branches)
        return false;
    a->gone = true;
    out->format = ACT_F32;
    out->gone = false;
    all->loose = append_output(all, PASS_BRANCH, PASS_NOWHERE, out, (const cuda_weight *)w, bias);
    return true;
}

bool gather_join(cuda_backend *cb, cuda_buf *stream, cuda_buf *branch, const float *norm, float eps) {
    gathered *all = &cb->gathered;
    pass_op *op = all->loose;
    if (!op || all->last != branch || stream->data != (void *)all->pass.stream || cb->waiting.out || !norm)
        return false;
    branch->gone = true;
    op->product.norm = norm;
    op->product.eps = eps;
    op->to = (uint8_t)next_place(all);
    all->from = op->to;
    all->last_add = op;
    all->last = stream;
    all->loose = NULL;
    return true;
}

bool gather_gated(cuda_backend *cb, cuda_buf *out, const weight *weight_head, bool gelu) {
    gathered *all = &cb->gathered;
    const cuda_weight *w = (const cuda_weight *)weight_head;
    if (!one_fp4(w) || !open_at(cb, 3) || cb->waiting.norm.x != all->pass.stream ||
        (int)w->fp4[0]->k != all->pass.hidden || w->fp4[0]->n % 32 != 0 ||
        (int)w->fp4[0]->n / 2 != all->set->sizes[PASS_UNIT])
        return false;
    out->format = ACT_BF16;
    out->gone = false;
    pass_op *op = append(all, PASS_GATED, all->from, PASS_UNIT, out);
    op->gelu = gelu;
    set_product(&all->pass, op, w, &cb->waiting.norm, NULL);
    return true;
}
