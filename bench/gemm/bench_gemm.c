/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of FP4 products beside cuBLASLt, as CSV, one shape a time.
 * usage: bench_gemm KINDS_MASK M,M,.. NxK ...     (the table of these: nibble gemm --bench)
 *        bench_gemm experts M,M,.. NxK ...        (8 of 128 experts a token)
 *        bench_gemm w4a8|w4a16 M,M,.. NxK ...     (Hopper: prepared, every tile and way to share K)
 *        bench_gemm w4a8-whole|w4a16-whole ...    (the same with the activations' preparation)
 *        bench_gemm quantize ROWS,ROWS,.. COLUMNS ...
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gemm/bench.h"

typedef struct run {
    bench *b;
    const bench_device *facts;
    const char *what; /* the first argument */
} run;

static nib_status print_products(const run *r, size_t m, size_t n, size_t k, nib_error *err) {
    bench_row row;
    nib_status status = bench_shape(r->b, m, n, k, (unsigned)strtoul(r->what, NULL, 0), &row, err);
    if (status != NIB_OK)
        return status;
    printf("%zu,%zu,%zu", n, k, m);
    for (int kind = 0; kind < BENCH_KINDS; kind++)
        printf(",%.2f", row.us[kind]);
    printf("\n");
    return NIB_OK;
}

static nib_status print_experts(const run *r, size_t m, size_t n, size_t k, nib_error *err) {
    double us[2], bytes;
    nib_status status = bench_experts(r->b, 128, 8, m, n, k, &us[0], &us[1], &bytes, err);
    double best = bytes / 1e6 / r->facts->read_tb_s; /* us */
    if (status == NIB_OK)
        printf("%zu,%zu,%zu,%.2f,%.1f,%.2f,%.1f\n", n, k, m, us[0], 100.0 * best / us[0], us[1],
               100.0 * best / us[1]);
    return status;
}

static nib_status print_tiles(const run *r, size_t m, size_t n, size_t k, nib_error *err) {
    bench_tile rows[BENCH_TILES];
    const nib_gemm_mode mode = strncmp(r->what, "w4a8", 4) ? NIB_GEMM_W4A16 : NIB_GEMM_W4A8;
    nib_status status = bench_tiles(r->b, m, n, k, mode, strstr(r->what, "-whole") != NULL, rows, err);
    for (int i = 0; i < BENCH_TILES && status == NIB_OK; i++)
        if (rows[i].us > 0.0)
            printf("%zu,%zu,%zu,%d,%d,%.2f,%s,%d\n", n, k, m, rows[i].tile_tokens, rows[i].k_slices,
                   rows[i].us, rows[i].chosen ? "chosen" : "", rows[i].tile_rows);
    return status;
}

static nib_status print_quantizer(const run *r, size_t rows, size_t cols, size_t none, nib_error *err) {
    bench_quantizer q;
    (void)none;
    nib_status status = bench_quantize(r->b, rows, cols, &q, err);
    double copied = q.copy.bytes / q.copy.us;
    if (status == NIB_OK)
        printf("%zu,%zu,%.2f,%.2f,%.2f,%.1f,%.1f\n", rows, cols, q.copy.us, q.given.us, q.sought.us,
               100.0 * q.given.bytes / q.given.us / copied, 100.0 * q.sought.bytes / q.sought.us / copied);
    return status;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name, *columns;
        nib_status (*print)(const run *r, size_t m, size_t n, size_t k, nib_error *err);
    } parts[] = {
        {"experts",
         "n,k,tokens,grouped_us,share_of_read_bandwidth_percent,offsets_stand_us,its_share_percent",
         print_experts},
        {"w4a8", "n,k,m,tile_tokens,blocks_a_tile_or_0_cut,us,chosen,tile_rows", print_tiles},
        {"w4a16", "n,k,m,tile_tokens,blocks_a_tile_or_0_cut,us,chosen,tile_rows", print_tiles},
        {"w4a8-whole", "n,k,m,tile_tokens,blocks_a_tile_or_0_cut,us,chosen,tile_rows", print_tiles},
        {"w4a16-whole", "n,k,m,tile_tokens,blocks_a_tile_or_0_cut,us,chosen,tile_rows", print_tiles},
        {"quantize",
         "rows,columns,copy_us,rtn_us,rtn_with_amax_us,rtn_share_of_copy_percent,with_amax_percent",
         print_quantizer},
        {NULL, "n,k,m,w4a16_us,w4a8_us,auto_us,cublas_bf16_us,cublas_fp8_us,cublas_fp8_token_us",
         print_products},
    };
    bench *b;
    bench_device facts;
    nib_error err;
    size_t part = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 4) {
        fprintf(stderr, "usage: bench_gemm KINDS_MASK|experts|w4a8[-whole]|w4a16[-whole] M,M,.. NxK ...\n"
                        "       bench_gemm quantize ROWS,ROWS,.. COLUMNS ...\n");
        return 2;
    }
    if (bench_open(0, &b, &facts, &err) != NIB_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    while (parts[part].name && strcmp(argv[1], parts[part].name))
        part++;
    printf("# %s, %d SMs, reads %.3f TB/s, %s\n%s\n", facts.name, facts.n_sms, facts.read_tb_s, argv[1],
           parts[part].columns);
    const run r = {b, &facts, argv[1]};
    for (int i = 3; i < argc; i++) {
        char *end;
        size_t n = strtoull(argv[i], &end, 10), k = *end ? strtoull(end + 1, NULL, 10) : 0;
        for (const char *p = argv[2]; *p; p = *end ? end + 1 : end) {
            size_t m = strtoull(p, &end, 10);
            if (parts[part].print(&r, m, n, k, &err) != NIB_OK) {
                fprintf(stderr, "%s\n", err.text);
                return 1;
            }
        }
    }
    bench_close(b);
    return 0;
}
