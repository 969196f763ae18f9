/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast a model's file becomes weights on the device, beside what the disk and the bus can do, all in one
 * run: pinned memory to the device; then in turns the whole file read plainly (8 threads, blocks of 4 MB, by
 * way of the page cache and around it) and opened as the engine opens it, from the disk and from the page
 * cache.
 *
 * usage: bench_gpu_load FILE.gguf [TURNS]   (3)
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECT, mincore */
#endif
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../tests/gpu/gpu_check.h"
#include "base/mapfile.h"
#include "model/model.h"
#include "ops/plugin.h"
#include "store/model_file.h"

extern const backend_plugin nibble_plugin;

enum { BLOCK = 4 << 20, THREADS = 8 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the file, without nibble ---- */

/* The part of the file that is in the page cache. */
static double cached(const char *path) {
    mapfile m;
    size_t n, in = 0;
    if (mapfile_open(&m, path, NULL) != NIB_OK)
        return -1;
    n = (m.size + 4095) / 4096;
    unsigned char *pages = malloc(n);
    if (mincore((void *)(uintptr_t)m.bytes, m.size, pages) == 0)
        for (size_t i = 0; i < n; i++)
            in += pages[i] & 1;
    free(pages);
    mapfile_close(&m);
    return (double)in / (double)n;
}

/* What the page cache holds of the file leaves it. */
static void drop(const char *path) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        printf("(%s: could not be dropped from the page cache)\n", path);
    if (fd >= 0)
        close(fd);
}

typedef struct reading {
    int fd;
    size_t bytes;
    _Atomic size_t next; /* block */
    _Atomic size_t done; /* bytes */
} reading;

static void *read_blocks(void *context) {
    reading *r = context;
    void *to = NULL;
    if (posix_memalign(&to, 4096, BLOCK) != 0)
        exit(1);
    for (size_t at; (at = BLOCK * atomic_fetch_add(&r->next, 1)) < r->bytes;) {
        const ssize_t got = pread(r->fd, to, BLOCK, (off_t)at);
        atomic_fetch_add(&r->done, got > 0 ? (size_t)got : 0);
    }
    free(to);
    return NULL;
}

/* Seconds that reading the file takes; FLAGS: O_DIRECT, or 0. */
static double read_seconds(const char *path, int flags) {
    struct stat st;
    pthread_t threads[THREADS];
    reading r = {.fd = open(path, O_RDONLY | O_CLOEXEC | flags)};
    if (r.fd < 0 || fstat(r.fd, &st) != 0)
        return INFINITY;
    r.bytes = (size_t)st.st_size;
    const double begin = now();
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, read_blocks, &r) != 0)
            exit(1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    const double seconds = now() - begin;
    close(r.fd);
    return r.done == r.bytes ? seconds : INFINITY;
}

/* ---- the bus ---- */

static double bus_rate(void) {
    enum { PIECE = 32 << 20, PIECES = 64 };
    void *host, *device;
    cudaEvent_t begin, end;
    float ms;
    double best = 0;
    CK(cudaMallocHost(&host, PIECE));
    CK(cudaMalloc(&device, PIECE));
    CK(cudaEventCreate(&begin));
    CK(cudaEventCreate(&end));
    memset(host, 1, PIECE);
    for (int turn = 0; turn < 3; turn++) {
        CK(cudaEventRecord(begin, 0));
        for (int i = 0; i < PIECES; i++)
            CK(cudaMemcpyAsync(device, host, PIECE, cudaMemcpyHostToDevice, 0));
        CK(cudaEventRecord(end, 0));
        CK(cudaEventSynchronize(end));
        CK(cudaEventElapsedTime(&ms, begin, end));
        best = fmax(best, (double)PIECE * PIECES / (1e-3 * ms));
    }
    cudaFreeHost(host);
    cudaFree(device);
    return best;
}

/* ---- nibble ---- */

/* kB of a line of /proc/self/status. */
static long status_kb(const char *name) {
    char line[256];
    long kb = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0)
            kb = atol(line + strlen(name) + 1);
    if (f)
        fclose(f);
    return kb;
}

/* Seconds that opening the model takes; the backend is open. */
static double load_seconds(const char *path, backend *be) {
    model_file *file = NULL;
    model *m = NULL;
    nib_error err = {""};
    const model_limits limits = {.max_rows = 512, .max_out = 16, .max_len = 4096, .n_pages = {64, 64}};
    const long before = status_kb("RssAnon");
    const double begin = now();
    if (model_file_open(&file, path, &err) != NIB_OK ||
        model_open(&m, file, be, &limits, NULL, &err) != NIB_OK) {
        printf("%s\n", err.text);
        exit(1);
    }
    const double seconds = now() - begin;
    printf(
        "  opened in %.3f s; the process has %+.1f MB of its own memory, %.1f MB of files, %.1f MB at most\n",
        seconds, (double)(status_kb("RssAnon") - before) / 1e3, (double)status_kb("RssFile") / 1e3,
        (double)status_kb("VmHWM") / 1e3);
    model_close(m);
    model_file_close(file);
    return seconds;
}

/* TURNS of reading and opening the file, from the disk or not; their sums, and the share of the slower of
 * reading and bus. */
static void measure(const char *path, backend *be, int turns, bool from_disk, double bytes, double bus) {
    double plain = 0, direct = 0, opening = 0;
    for (int i = 0; i < turns; i++) {
        for (int way = 0; way < 3; way++) {
            if (from_disk) {
                drop(path);
                printf("  %.0f %% cached\n", 100 * cached(path));
            }
            if (way == 0)
                plain += read_seconds(path, 0);
            else if (way == 1)
                direct += from_disk ? read_seconds(path, O_DIRECT) : INFINITY;
            else
                opening += load_seconds(path, be);
        }
    }
    bytes *= turns;
    const double slower = fmin(bytes / fmin(plain, direct), bus);
    printf("from the %s: read %.2f GB/s (O_DIRECT %.2f), opened %.2f GB/s, %.0f %% of the slower of that and "
           "the "
           "bus\n",
           from_disk ? "disk" : "page cache", bytes / plain / 1e9, bytes / direct / 1e9,
           bytes / opening / 1e9, 100 * bytes / opening / slower);
}

int main(int argc, char **argv) {
    backend *be;
    struct stat st;
    nib_error err = {""};
    setvbuf(stdout, NULL, _IOLBF, 0);
    const int turns = argc > 2 ? atoi(argv[2]) : 3;
    if (argc < 2 || turns < 1 || turns > 100 || stat(argv[1], &st) != 0) {
        printf("usage: bench_gpu_load FILE.gguf [TURNS]\n");
        return 2;
    }
    if (nibble_plugin.open(&be, &(device_options){.mode_auto = true}, &err) != NIB_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    const double bus = bus_rate();
    printf("%s: %.2f GB; bus %.2f GB/s\n", argv[1], (double)st.st_size / 1e9, bus / 1e9);
    measure(argv[1], be, turns, true, (double)st.st_size, bus);
    measure(argv[1], be, turns, false, (double)st.st_size, bus);
    be->close(be);
    return 0;
}
