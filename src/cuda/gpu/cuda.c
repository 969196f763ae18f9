/* SPDX-License-Identifier: Apache-2.0
 *
 * The plugin: opens a device as a backend, lists the devices there are.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/draw.h"
#include "cuda/gpu/state.h"
#include "ops/plugin.h"

/* Generations whose kernels have been run; what others have is tested in emulation, or not at all. */
static bool run_here(int arch) {
    return arch == 90;
}

static bool supported(int arch) {
    return arch == 80 || arch == 86 || arch == 87 || arch == 89 || arch == 90 || arch == 100 || arch == 103 ||
           arch == 120 || arch == 121;
}

static nib_status count_devices(int *n, nib_error *err) {
    *n = 0;
    int code = cudaGetDeviceCount(n);
    if (code == cudaSuccess && *n > 0)
        return NIB_OK;
    cudaGetLastError();
    return nib_fail(err, NIB_UNSUPPORTED, "no CUDA device: %s",
                    code == cudaSuccess ? "the driver lists none" : cudaGetErrorString((cudaError_t)code));
}

/* ---- opening ---- */

/* AUTO is BF16: FP8 activations are faster for many rows, and cost more than the quality bounds allow
 * (docs/results/gpu-engine.md). */
static nib_status choose_mode(cuda_backend *cb, const device_options *o, nib_error *err) {
    bool fp8 = cb->arch == 90;
    cb->be.mode = o->mode_auto ? COMPUTE_W4A16 : o->mode;
    if (o->mode_auto || o->mode == COMPUTE_EXACT || o->mode == COMPUTE_W4A16 || o->mode == COMPUTE_W4A4 ||
        (o->mode == COMPUTE_W4A8_FP8 && fp8))
        return NIB_OK;
    return nib_fail(err, NIB_UNSUPPORTED,
                    "%s (sm_%d) does not compute in %s here: it has exact, w4a16%s, w4a4", cb->device_name,
                    cb->arch, compute_mode_name(o->mode), fp8 ? ", w4a8-fp8" : "");
}

void cuda_describe(cuda_backend *cb) {
    const gathered *g = &cb->gathered;
    char passes[96] = "", pairs[32] = "";
    if (g->n_paired > 0 && g->n_paired < g->n_taken)
        snprintf(pairs, sizeof pairs, ", two rows: %d", g->n_paired);
    if (g->n_taken > 0)
        snprintf(passes, sizeof passes, "; one row%s: %d of %d layers in one launch%s",
                 g->n_paired == g->n_taken ? " or two" : "", g->n_taken, g->n_layers, pairs);
    const char *how = cb->be.mode == COMPUTE_EXACT ? "exact: FP32 activations and products"
                      : cb->be.mode == COMPUTE_W4A16
                          ? "activations bf16; NVFP4 gemv/wgmma, other formats mma.sync"
                      : cb->be.mode == COMPUTE_W4A4
                          ? "activations nvfp4, emulated (rounded, bf16 products), bf16 for other formats"
                          : "activations fp8 (a scale per row), bf16 to 32 rows and for other formats";
    snprintf(cb->be.path, sizeof cb->be.path, "cuda %.40s sm_%d, %s%s%s", cb->device_name, cb->arch, how,
             cb->n_thin == 0                   ? ""
             : cb->be.mode == COMPUTE_EXACT    ? "; low-rank branches fp32"
             : cb->be.mode == COMPUTE_W4A8_FP8 ? "; bf16 beside low-rank branches"
                                               : "; low-rank branches bf16",
             passes);
}

static nib_status open_device(cuda_backend *cb, const device_options *o, nib_error *err) {
    int n, major, minor;
    struct cudaDeviceProp p;
    NIB_TRY(count_devices(&n, err));
    if (o->device < 0 || o->device >= n)
        return nib_fail(err, NIB_BAD_ARGUMENT, "CUDA device %d: there are %d, counted from 0", o->device, n);
    cb->device = o->device;
    CUDA_TRY(cudaSetDevice(cb->device), err, "opening the device");
    CUDA_TRY(cudaGetDeviceProperties(&p, cb->device), err, "opening the device");
    major = p.major, minor = p.minor;
    snprintf(cb->device_name, sizeof cb->device_name, "%.90s", p.name);
    cb->arch = 10 * major + minor;
    if (!supported(cb->arch))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s has compute capability %d.%d; nibble has kernels for 8.0, 8.6, 8.9, "
                        "9.0, 10.0, 10.3, 12.0 and 12.1",
                        p.name, major, minor);
    NIB_TRY(choose_mode(cb, o, err));
    CUDA_TRY(cudaStreamCreateWithFlags(&cb->stream, cudaStreamNonBlocking), err, "opening the device");
    cb->lane = (cuda_lane){
        .stream = cb->stream, .pdl = cb->arch >= 90, .n_sms = p.multiProcessorCount, .wgmma = cb->arch == 90};
    if (cb->arch >= 90)
        CUDA_TRY(decode_know_clusters(&cb->lane), err, "opening the device");
    NIB_TRY(cuda_alloc(cb, &cb->partial, decode_partial_most(&cb->lane), "partial attention", err));
    NIB_TRY(gather_new(cb, err));
    NIB_TRY(draw_new(cb, err));
    return nib_gemm_open(cb->device, &cb->gemm, err);
}

static void close_device(backend *be) {
    cuda_backend *cb = cuda_of(be);
    if (!cb)
        return;
    if (cb->stream)
        cudaStreamSynchronize(cb->stream);
    step_release(cb);
    draw_free(cb);
    upload_release(cb);
    gather_release(cb);
    memory_release(cb);
    nib_gemm_close(cb->gemm);
    if (cb->stream)
        cudaStreamDestroy(cb->stream);
    mem_free(cb);
}

static nib_status plugin_open(backend **out, const device_options *options, nib_error *err) {
    *out = NULL;
    cuda_backend *cb = mem_array(1, sizeof *cb);
    if (!cb)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the CUDA backend");
    cb->be = (backend){.name = "cuda",
                       .n_ranks = 1,
                       .caps = true,
                       .query_log = true,
                       .key_means = true,
                       .branches = true,
                       .close = close_device};
    cb->eager = options->eager;
    memory_set(&cb->be);
    upload_set(&cb->be);
    step_set(&cb->be);
    opcalls_set(&cb->be);
    draw_set(&cb->be);
    nib_status status = open_device(cb, options, err);
    if (status != NIB_OK) {
        close_device(&cb->be);
        return status;
    }
    cuda_describe(cb);
    *out = &cb->be;
    return NIB_OK;
}

/* ---- listing ---- */

/* Bytes per second of reading a quarter of what is free, 4 GiB at most. */
static double read_bandwidth(int device, int n_sms, size_t free_bytes) {
    enum { REPEATS = 5 };
    size_t bytes = free_bytes / 4 < (size_t)4 << 30 ? free_bytes / 4 : (size_t)4 << 30;
    void *p = NULL, *sink = NULL;
    cudaEvent_t begin, end;
    cudaStream_t stream;
    float best = 1e9f;
    if (cudaSetDevice(device) != cudaSuccess || cudaMalloc(&p, bytes) != cudaSuccess)
        return 0;
    cudaMalloc(&sink, 4);
    cudaMemset(p, 0x5a, bytes);
    cudaStreamCreate(&stream);
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cuda_lane lane = {.stream = stream, .n_sms = n_sms};
    for (int i = 0; i <= REPEATS; i++) {
        float ms = 1e9f;
        cudaEventRecord(begin, stream);
        bandwidth_launch(&lane, p, bytes, sink);
        cudaEventRecord(end, stream);
        cudaStreamSynchronize(stream);
        if (cudaEventElapsedTime(&ms, begin, end) == cudaSuccess && i > 0)
            best = ms < best ? ms : best;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    cudaFree(p);
    cudaFree(sink);
    return best < 1e8f ? (double)bytes / ((double)best * 1e-3) : 0;
}

/* Dense BF16 with FP32 sums: operations a clock of a multiprocessor, by the data sheets of A100, H100 and
 * B200. GeForce and workstation cards share their numbers (8.9, 12.0) but not their rate. */
static double tensor_flops(int device, int n_sms, int arch) {
    int khz = 0;
    cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device);
    const double a_clock = arch == 80 ? 2048 : arch == 90 ? 4096 : arch == 100 || arch == 103 ? 8192 : 0;
    return a_clock * n_sms * khz * 1e3;
}

static void describe_paths(device_info *d, int arch) {
    if (!supported(arch)) {
        snprintf(d->paths, sizeof d->paths, "no kernels for this generation\n");
        return;
    }
    snprintf(d->paths, sizeof d->paths,
             "NVFP4: %s\nother formats: products on the stored blocks, mma.sync BF16 with FP32 sums\n"
             "low-rank branches: mma.sync BF16 with FP32 sums, beside NVFP4 in BF16, a launch an op\n"
             "attention: FP8 or BF16 pages, mma.sync%s; head_dim 64, 96, 128, 256 (others in FP32)\n",
             arch == 90
                 ? "one row or two: layers in one launch where it serves them; wgmma from 2 rows on (BF16, "
                   "or FP8 with folded scales)"
                 : "gemv to 16 rows, then mma.sync BF16",
             arch == 90 ? " (prompts over FP8 pages with head_dim 64, 128 or 256: wgmma)" : "");
}

static nib_status plugin_devices(device_info list[BACKEND_MAX_DEVICES], size_t *n, bool measure,
                                 nib_error *err) {
    int count;
    *n = 0;
    NIB_TRY(count_devices(&count, err));
    for (int i = 0; i < count && i < BACKEND_MAX_DEVICES; i++) {
        struct cudaDeviceProp p;
        device_info *d = &list[i];
        CUDA_TRY(cudaGetDeviceProperties(&p, i), err, "reading a device's properties");
        CUDA_TRY(cudaSetDevice(i), err, "opening a device");
        *d = (device_info){.major = p.major, .minor = p.minor, .run_here = run_here(10 * p.major + p.minor)};
        snprintf(d->name, sizeof d->name, "%.90s", p.name);
        CUDA_TRY(cudaMemGetInfo(&d->free, &d->memory), err, "reading a device's memory");
        d->read_bandwidth = measure ? read_bandwidth(i, p.multiProcessorCount, d->free) : 0;
        d->tensor_flops = tensor_flops(i, p.multiProcessorCount, 10 * p.major + p.minor);
        describe_paths(d, 10 * p.major + p.minor);
        (*n)++;
    }
    return NIB_OK;
}

__attribute__((visibility("default"))) extern const backend_plugin nibble_plugin;
const backend_plugin nibble_plugin = {BACKEND_PLUGIN_ABI, plugin_open, plugin_devices};
