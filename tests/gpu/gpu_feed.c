/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights from a mapped file, many of them on their way at once: small ones, whole pieces and a little more,
 * as the file stores them and packed, joined parts, low-rank branches beside; each is what the file holds.
 * Then a file that has been cut short: said in words, by whoever is asked next, and the backend goes on.
 */
#include <fcntl.h>
#include <unistd.h>

#include "base/mapfile.h"
#include "gpu_check.h"
#include "ops/ops.h"
#include "ops/plugin.h"

extern const backend_plugin nibble_plugin;

enum { FILE_BYTES = 48 << 20, PIECE = 4 << 20, ROUNDS = 5, MOST = 3 * ROUNDS * 16 };

typedef struct packed_weight {
    weight *w;
    tensor parts[WEIGHT_MAX_PARTS];
    size_t n;
} packed_weight;

static backend *be;
static mapfile map;
static char path[] = "/tmp/nibble-feed-XXXXXX";
static packed_weight all[MOST];
static int n_all;

/* Bytes whose BF16, E4M3 and codes are all plain numbers. */
static void write_file(int fd) {
    static uint32_t words[PIECE / 4];
    for (size_t at = 0; at < FILE_BYTES; at += PIECE) {
        for (size_t i = 0; i < PIECE / 4; i++)
            words[i] = rnd() & 0x3f3f3f3f;
        if (pwrite(fd, words, PIECE, (off_t)at) != PIECE)
            exit(1);
    }
}

static tensor tensor_at(size_t at, dtype type, size_t rows, size_t cols, float scale, size_t rank) {
    const size_t bytes = type == DT_NVFP4 ? rows * cols / 2 : rows * cols * 2;
    tensor t = {.name = "w",
                .dtype = type,
                .rows = rows,
                .cols = cols,
                .n_dims = 2,
                .dims = {rows, cols},
                .data = map.bytes + at,
                .bytes = bytes,
                .tensor_scale = scale};
    if (type == DT_NVFP4)
        t.block_scales = map.bytes + at + bytes;
    if (rank > 0)
        t.branch = (tensor_branch){rank, (const uint16_t *)(const void *)(map.bytes + at),
                                   (const uint16_t *)(const void *)(map.bytes + at + 64), 1};
    return t;
}

static nib_status pack(const tensor *parts, size_t n, nib_error *err) {
    const tensor *list[WEIGHT_MAX_PARTS];
    packed_weight *p = &all[n_all];
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        p->parts[i] = parts[i];
        list[i] = &p->parts[i];
    }
    const nib_status status = be->weight_pack(be, &p->w, list, n, SPLIT_NONE, err);
    n_all += status == NIB_OK;
    return status;
}

/* All kinds once, from byte AT on. */
static nib_status pack_some(size_t at, nib_error *err) {
    static const struct {
        dtype type;
        size_t rows, cols, n, rank;
        bool one_scale;
    } kinds[] = {{DT_BF16, 3, 64, 1, 0, true},        {DT_BF16, 2048, 1024, 1, 0, true},
                 {DT_NVFP4, 2048, 2048, 1, 0, true},  {DT_NVFP4, 16, 16, 1, 0, true},
                 {DT_BF16, 2049, 1024, 1, 0, true},   {DT_NVFP4, 1024, 2048, 3, 0, true},
                 {DT_NVFP4, 1024, 512, 3, 0, false},  {DT_BF16, 2047, 1024, 1, 0, true},
                 {DT_NVFP4, 4096, 1024, 1, 32, true}, {DT_NVFP4, 512, 512, 2, 5, false}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        tensor parts[WEIGHT_MAX_PARTS];
        for (size_t k = 0; k < kinds[i].n; k++)
            parts[k] = tensor_at(at + 4096 * (i + k), kinds[i].type, kinds[i].rows, kinds[i].cols,
                                 kinds[i].one_scale ? 0.5f : 0.5f + (float)k, kinds[i].rank);
        NIB_TRY(pack(parts, kinds[i].n, err));
    }
    return NIB_OK;
}

static void check_rows(const packed_weight *p) {
    size_t row = 0;
    float *got = malloc(p->w->cols * sizeof *got), *want = malloc(p->w->cols * sizeof *want);
    for (size_t i = 0; i < p->n; row += p->parts[i++].rows)
        for (size_t k = 0; k < 5; k++) {
            const size_t r = k * (p->parts[i].rows - 1) / 4;
            tensor bare = p->parts[i];
            bare.branch.rank = 0;
            be->weight_unpack_row(be, p->w, row + r, got);
            tensor_decode_row(&bare, r, want);
            check_equal("a row of a weight", got, want, p->w->cols * sizeof *got);
        }
    free(got), free(want);
}

static void free_all(void) {
    while (n_all > 0)
        be->weight_free(be, all[--n_all].w);
}

/* From an intact file. */
static void check_round(void) {
    nib_error err = {""};
    for (int round = 0; round < ROUNDS; round++)
        if (pack_some((size_t)round * PIECE + 256, &err) != NIB_OK)
            check_error(err.text, 1, 0);
    if (be->weights_wait(be, &err) != NIB_OK)
        check_error(err.text, 1, 0);
    for (int i = 0; i < n_all; i++)
        check_rows(&all[i]);
    free_all();
}

/* The file ends within what is read. */
static void check_cut(int fd) {
    nib_error err = {""};
    if (ftruncate(fd, 2 * PIECE) != 0)
        exit(1);
    nib_status status = NIB_OK;
    for (int round = 0; round < ROUNDS && status == NIB_OK; round++)
        status = pack_some((size_t)round * PIECE, &err);
    if (status == NIB_OK)
        status = be->weights_wait(be, &err);
    check_error("a file cut short", status == NIB_BAD_FILE && strstr(err.text, "cut short") ? 0 : 1, 0);
    free_all();
}

int main(void) {
    nib_error err = {""};
    const int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    write_file(fd);
    if (mapfile_open(&map, path, &err) != NIB_OK ||
        nibble_plugin.open(&be, &(device_options){.mode = COMPUTE_W4A16}, &err) != NIB_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    check_round();
    check_cut(fd);
    write_file(fd);
    check_round();
    be->close(be);
    mapfile_close(&map);
    close(fd);
    unlink(path);
    printf("feed: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}
