/* SPDX-License-Identifier: Apache-2.0
 *
 * Row by row: change of activation format, gated linear units, biases, sums of squares for calibration.
 *
 * A block of 256 threads a row (sum_squares: a thread a column, rows in order, so that sums have one order).
 * FP8 needs the largest element first: the row is read twice, the second time from L2. Bytes moved: the row
 * in, its format out.
 */
#include "cuda/gpu/any/device.cuh"

enum { THREADS = 256, FEW_ROWS = 16 /* below, a row is spread over several blocks */ };

/* A source of values: a row in some format, or the gated unit of two halves. */
typedef struct plain_row {
    act_view x;
    __device__ float operator()(size_t row, size_t col) const {
        return act_get(x, row, col);
    }
} plain_row;

/* silu: g / (1 + exp(-g)); gelu: 0.5 g (1 + tanh u) = g / (1 + exp(-2u)), u = sqrt(2/pi) (g + 0.044715 g^3)
 */
template <bool GELU> __device__ __forceinline__ float gated(float g, float up) {
    float u = GELU ? 1.5957691216057308f * (g + 0.044715f * g * g * g) : g;
    return g / (1.0f + expf(-u)) * up;
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
               : launch_kernel(lane, map_rows<ACT_FP8, SOURCE>, grid, THREADS, 0, out, source, cols);
}

extern "C" int convert_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t cols) {
    return map(lane, out, plain_row{x}, n_rows, cols);
}

/* ---- gated units by eights: what prefill does with many rows ---- */

enum { GLU_ITEMS = 4, GLU_THREADS = 512 };

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

template <bool BF16, bool GELU, act_format TO>
static __global__ void __launch_bounds__(GLU_THREADS) glu_rows(act_view out, act_view x, size_t n) {
    __shared__ float room[33];
    pdl_wait();
    pdl_go();
    const size_t row = blockIdx.x;
    const void *from = act_row(x, row);
    void *to = act_row(out, row);
    float v[GLU_ITEMS][8], most = 0;
#pragma unroll
    for (int i = 0; i < GLU_ITEMS; i++) {
        size_t col = 8 * (threadIdx.x + i * (size_t)blockDim.x);
        float up[8] = {};
        if (col < n) {
            load8<BF16>(v[i], from, col);
            load8<BF16>(up, from, n + col);
        }
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[i][k] = col < n ? gated<GELU>(v[i][k], up[k]) : 0;
            most = fmaxf(most, fabsf(v[i][k]));
        }
    }
    float scale = TO == ACT_FP8 ? fp8_row_scale(block_reduce<true>(most, room)) : 0;
    float inverse = scale > 0 ? 1.0f / scale : 0;
    if (TO == ACT_FP8 && threadIdx.x == 0)
        out.scales[row] = scale;
#pragma unroll
    for (int i = 0; i < GLU_ITEMS; i++) {
        size_t col = 8 * (threadIdx.x + i * (size_t)blockDim.x);
        if (col < n)
            act_put8<TO>(to, col, v[i], inverse);
    }
}

template <bool BF16, bool GELU>
static int run_glu(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t n) {
    size_t eighths = n / 8, threads = eighths < GLU_THREADS ? (eighths + 31) / 32 * 32 : GLU_THREADS;
    return out.format == ACT_FP8 ? launch_kernel(lane, glu_rows<BF16, GELU, ACT_FP8>, dim3((unsigned)n_rows),
                                                 (unsigned)threads, 0, out, x, n)
                                 : launch_kernel(lane, glu_rows<BF16, GELU, ACT_BF16>, dim3((unsigned)n_rows),
                                                 (unsigned)threads, 0, out, x, n);
}

extern "C" int glu_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t n, bool gelu) {
    bool bf16 = x.format == ACT_BF16, many = n_rows > FEW_ROWS;
    if (x.stride < 2 * n || x.format == ACT_FP8)
        return cudaErrorInvalidValue;
    if (many && out.format != ACT_F32 && n % 8 == 0 && n <= 8 * GLU_ITEMS * GLU_THREADS &&
        x.stride % 8 == 0 && (out.format != ACT_FP8 || out.scales) && out.stride >= n)
        return gelu ? (bf16 ? run_glu<true, true>(lane, out, x, n_rows, n)
                            : run_glu<false, true>(lane, out, x, n_rows, n))
                    : (bf16 ? run_glu<true, false>(lane, out, x, n_rows, n)
                            : run_glu<false, false>(lane, out, x, n_rows, n));
    return gelu ? map(lane, out, glu_row<true>{x, n}, n_rows, n)
                : map(lane, out, glu_row<false>{x, n}, n_rows, n);
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
