/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of FP4 products beside cuBLASLt, as CSV. usage: bench_gemm [KINDS_MASK] M,M,.. NxK NxK ...
 * The table and the plot: nibble gemm --bench.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gemm/bench.h"

int main(int argc, char **argv) {
    bench *b;
    bench_device facts;
    setvbuf(stdout, NULL, _IOLBF, 0);
    nib_error err;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_gemm KINDS_MASK M,M,.. NxK ...\n");
        return 2;
    }
    if (bench_open(0, &b, &facts, &err) != NIB_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("# %s, %d SMs, reads %.3f "
           "TB/s\nn,k,m,w4a16_us,w4a8_us,auto_us,cublas_bf16_us,cublas_fp8_us,cublas_fp8_token_us\n",
           facts.name, facts.n_sms, facts.read_tb_s);
    unsigned kinds = (unsigned)strtoul(argv[1], NULL, 0);
    for (int i = 3; i < argc; i++) {
        char *end;
        size_t n = strtoull(argv[i], &end, 10), k = strtoull(end + 1, NULL, 10);
        for (const char *p = argv[2]; *p; p = *end ? end + 1 : end) {
            bench_row row;
            size_t m = strtoull(p, &end, 10);
            if (bench_shape(b, m, n, k, kinds, &row, &err) != NIB_OK) {
                fprintf(stderr, "%s\n", err.text);
                return 1;
            }
            printf("%zu,%zu,%zu", n, k, m);
            for (int kind = 0; kind < BENCH_KINDS; kind++)
                printf(",%.2f", row.us[kind]);
            printf("\n");
            fflush(stdout);
        }
    }
    bench_close(b);
    return 0;
}
