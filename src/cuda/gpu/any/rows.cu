/* SPDX-License-Identifier: Apache-2.0
 *
 * Row by row: change of activation format, gated linear units, biases, sums of squares for calibration.
 *
 * A block of 256 threads a row (sum_squares: a thread a column, rows in order, so that sums have one order).
 * FP8 needs the largest element first: the row is read twice, the second time from L2. Bytes moved: the row
 * in, its format out.
 */
#include "cuda/gpu/any/kernel.cuh"
#include "gemm/gpu/gated.cuh"

enum { THREADS = 256, FEW_ROWS = 16 /* below, a row is spread over several blocks */ };

/* A source of values: a row in some format, or the gated unit of two halves. */
typedef struct plain_row {
    act_view x;
    __device__ float operator()(size_t row, size_t col) const {
        return act_get(x, row, col);
    }
} plain_row;

template <bool GELU> __device__ __forceinline__ float gated(float g, float up) {
    return g / (1.0f + expf(-gated_argument(g, GELU))) * up;
}

template <bool GELU> struct glu_row {
    act_view x;
    size_t n;
    __device__ float operator()(size_t row, size_t col) const {
        return gated<GELU>(act_get(x, row, col), act_get(x, row, n + col));
    }
};

template <int TO, class SOURCE>
static __global__ void __launch_bounds__(THREADS) map_rows(act_view out, SOURCE source, size_t cols) {
    __shared__ float room[33];
    pdl_wait();
    pdl_go();
    const size_t row = blockIdx.y;
    float inverse = 0;
    if (TO == ACT_FP8) { /* the one block of this row */
        float most = 0;
        for (size_t i = threadIdx.x; i < cols; i += THREADS)
            most = fmaxf(most, fabsf(source(row, i)));
        float scale = fp8_row_scale(block_reduce<true>(most, room));
        inverse = scale > 0 ? 1.0f / scale : 0;
        if (threadIdx.x == 0)
            out.scales[row] = scale;
    }
    void *to = act_row(out, row);
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < cols; i += (size_t)gridDim.x * THREADS)
        act_put<(act_format)TO>(to, i, source(row, i), inverse);
}

template <class SOURCE>
static int map(const cuda_lane *lane, act_view out, SOURCE source, int n_rows, size_t cols) {
    if (out.stride < cols || n_rows < 0 || (out.format == ACT_FP8 && !out.scales))
        return cudaErrorInvalidValue;
    unsigned per_row = out.format == ACT_FP8 ? 1 : (unsigned)((cols + THREADS - 1) / THREADS);
    dim3 grid(n_rows > 4 * lane->n_sms ? 1 : per_row, (unsigned)n_rows);
    return out.format == ACT_F32
               ? launch_kernel(lane, map_rows<ACT_F32, SOURCE>, grid, THREADS, 0, out, source, cols)
           : out.format == ACT_BF16
               ? launch_kernel(lane, map_rows<ACT_BF16, SOURCE>, grid, THREADS, 0, out, source, cols)
           : out.format == ACT_BF16_MMA
               ? launch_kernel(lane, map_rows<ACT_BF16_MMA, SOURCE>, grid, THREADS, 0, out, source, cols)
               : launch_kernel(lane, map_rows<ACT_FP8, SOURCE>, grid, THREADS, 0, out, source, cols);
}

/* ---- the same by eights: what prefill does with many rows ---- */

enum { ITEMS = 4, MAX_THREADS = 1024 };

template <bool BF16> __device__ __forceinline__ void load8(float *v, const void *row, size_t col) {
    if (BF16) {
        uint4 w = *(const uint4 *)((const __nv_bfloat16 *)row + col);
        const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[2 * i] = __uint_as_float(words[i] << 16);
            v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    } else {
        *(float4 *)v = *(const float4 *)((const float *)row + col);
        *(float4 *)(v + 4) = *(const float4 *)((const float *)row + col + 4);
    }
}

/* Eight values from column COL of a row: as they are, or the gated unit of two halves. */
template <bool BF16> struct plain_eights {
    size_t n;
    __device__ __forceinline__ void operator()(float *v, const void *row, size_t col) const {
        load8<BF16>(v, row, col);
    }
};

template <bool BF16, bool GELU> struct glu_eights {
    size_t n;
    __device__ __forceinline__ void operator()(float *v, const void *row, size_t col) const {
        float up[8];
        load8<BF16>(v, row, col);
        load8<BF16>(up, row, n + col);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = gated_unit(v[k], up[k], GELU);
    }
};

/* A block a row, which stays in registers between its largest element and its store. */
template <class SOURCE, act_format TO>
static __global__ void __launch_bounds__(MAX_THREADS) map_eights(act_view out, act_view x, SOURCE source) {
    __shared__ float room[33];
    pdl_wait();
    pdl_go();
    const size_t row = blockIdx.x;
    const void *from = act_row(x, row);
    void *to = act_row(out, row);
    float v[ITEMS][8], most = 0;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const size_t col = 8 * (threadIdx.x + i * (size_t)blockDim.x);
        if (col < source.n)
            source(v[i], from, col);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[i][k] = col < source.n ? v[i][k] : 0;
            most = fmaxf(most, fabsf(v[i][k]));
        }
    }
    const float scale = TO == ACT_FP8 ? fp8_row_scale(block_reduce<true>(most, room)) : 0;
    const float inverse = scale > 0 ? 1.0f / scale : 0;
    if (TO == ACT_FP8 && threadIdx.x == 0)
        out.scales[row] = scale;
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const size_t col = 8 * (threadIdx.x + i * (size_t)blockDim.x);
        if (col < source.n)
            act_put8<TO>(to, col, v[i], inverse);
    }
}

/* Whether rows of N columns go by eights from X (of WIDTH columns) to OUT. */
static bool by_eights(act_view out, act_view x, int n_rows, size_t n, size_t width) {
    return n_rows > FEW_ROWS && out.format != ACT_F32 && (x.format == ACT_F32 || x.format == ACT_BF16) &&
           n % 8 == 0 && n <= 8 * ITEMS * (size_t)MAX_THREADS && x.stride % 8 == 0 && x.stride >= width &&
           out.stride >= n && (out.format != ACT_FP8 || out.scales);
}

/* Few rows: as many threads as may be, since a row's latency counts; else as many items. */
template <class SOURCE>
static int run_eights(const cuda_lane *lane, act_view out, act_view x, int n_rows, SOURCE source) {
    const size_t eighths = source.n / 8, most = n_rows <= lane->n_sms ? MAX_THREADS : MAX_THREADS / 2;
    const size_t items = (eighths + most - 1) / most, per_item = (eighths + items - 1) / items;
    const unsigned threads = (unsigned)(items > ITEMS ? MAX_THREADS : (per_item + 31) / 32 * 32);
    return launch_kernel(lane,
                         out.format == ACT_FP8        ? map_eights<SOURCE, ACT_FP8>
                         : out.format == ACT_BF16_MMA ? map_eights<SOURCE, ACT_BF16_MMA>
                                                      : map_eights<SOURCE, ACT_BF16>,
                         dim3((unsigned)n_rows), threads, 0, out, x, source);
}

extern "C" int convert_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t cols) {
    if (by_eights(out, x, n_rows, cols, cols) && x.format == ACT_BF16)
        return run_eights(lane, out, x, n_rows, plain_eights<true>{cols});
    return map(lane, out, plain_row{x}, n_rows, cols);
}

template <bool GELU>
static int run_glu(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t n) {
    if (!by_eights(out, x, n_rows, n, 2 * n))
        return map(lane, out, glu_row<GELU>{x, n}, n_rows, n);
    return x.format == ACT_BF16 ? run_eights(lane, out, x, n_rows, glu_eights<true, GELU>{n})
                                : run_eights(lane, out, x, n_rows, glu_eights<false, GELU>{n});
}

extern "C" int glu_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t n, bool gelu) {
    if (x.stride < 2 * n || (x.format != ACT_F32 && x.format != ACT_BF16))
        return cudaErrorInvalidValue;
    return gelu ? run_glu<true>(lane, out, x, n_rows, n) : run_glu<false>(lane, out, x, n_rows, n);
}

static __global__ void __launch_bounds__(THREADS)
    add_rows(float *x, size_t stride, act_view y, size_t eighths) {
    pdl_wait();
    pdl_go();
    const size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i >= eighths)
        return;
    float v[8], w[8], *row = x + blockIdx.y * stride;
    load8<false>(v, row, 8 * i);
    load8<true>(w, act_row(y, blockIdx.y), 8 * i);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] += w[k];
    act_put8<ACT_F32>(row, 8 * i, v, 1);
}

extern "C" int add_launch(const cuda_lane *lane, float *x, size_t stride, act_view y, int n_rows,
                          size_t cols) {
    if (y.format != ACT_BF16 || cols % 8 != 0 || stride % 8 != 0 || y.stride % 8 != 0 || n_rows < 0)
        return cudaErrorInvalidValue;
    dim3 grid((unsigned)((cols / 8 + THREADS - 1) / THREADS), (unsigned)n_rows);
    return launch_kernel(lane, add_rows, grid, THREADS, 0, x, stride, y, cols / 8);
}

static __global__ void cap_rows(float *x, size_t stride, float cap, size_t cols) {
    pdl_wait();
    pdl_go();
    const size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i < cols)
        x[blockIdx.y * stride + i] = cap * tanhf(x[blockIdx.y * stride + i] / cap);
}

extern "C" int softcap_launch(const cuda_lane *lane, float *x, size_t stride, float cap, int n_rows,
                              size_t cols) {
    dim3 grid((unsigned)((cols + THREADS - 1) / THREADS), (unsigned)n_rows);
    return launch_kernel(lane, cap_rows, grid, THREADS, 0, x, stride, cap, cols);
}

static __global__ void add_bias(float *x, size_t stride, const float *bias, size_t cols) {
    pdl_wait();
    pdl_go();
    size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (i < cols)
        x[blockIdx.y * stride + i] += bias[i];
}

extern "C" int bias_launch(const cuda_lane *lane, float *x, size_t stride, const float *bias, int n_rows,
                           size_t cols) {
    dim3 grid((unsigned)((cols + THREADS - 1) / THREADS), (unsigned)n_rows);
    return launch_kernel(lane, add_bias, grid, THREADS, 0, x, stride, bias, cols);
}

static __global__ void add_squares(double *sums, act_view a, int n_rows, size_t cols) {
    pdl_wait();
    pdl_go();
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i >= cols)
        return;
    double sum = sums[i];
    for (int r = 0; r < n_rows; r++) {
        double v = act_get(a, (size_t)r, i);
        sum += v * v;
    }
    sums[i] = sum;
}

extern "C" int sum_squares_launch(const cuda_lane *lane, double *sums, act_view a, int n_rows, size_t cols) {
    return launch_kernel(lane, add_squares, dim3((unsigned)((cols + 31) / 32)), 32, 0, sums, a, n_rows, cols);
}
