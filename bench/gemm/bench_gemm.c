/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of FP4 products beside cuBLASLt, as CSV.
 * usage: bench_gemm KINDS_MASK M,M,.. NxK ...   (the table of these: nibble gemm --bench)
 *        bench_gemm experts M,M,.. NxK ...      (8 of 128 experts a token)
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    bool experts = !strcmp(argv[1], "experts");
    printf("# %s, %d SMs, reads %.3f TB/s\n%s\n", facts.name, facts.n_sms, facts.read_tb_s,
           experts ? "n,k,tokens,grouped_us,share_of_read_bandwidth_percent"
                   : "n,k,m,w4a16_us,w4a8_us,auto_us,cublas_bf16_us,cublas_fp8_us,cublas_fp8_token_us");
    unsigned kinds = (unsigned)strtoul(argv[1], NULL, 0);
    for (int i = 3; i < argc; i++) {
        char *end;
        size_t n = strtoull(argv[i], &end, 10), k = strtoull(end + 1, NULL, 10);
        for (const char *p = argv[2]; *p; p = *end ? end + 1 : end) {
            bench_row row;
            size_t m = strtoull(p, &end, 10);
            if (experts) {
                double us, bytes;
                if (bench_experts(b, 128, 8, m, n, k, &us, &bytes, &err) != NIB_OK) {
                    fprintf(stderr, "%s\n", err.text);
                    return 1;
                }
                printf("%zu,%zu,%zu,%.2f,%.1f\n", n, k, m, us, 100.0 * bytes / us / 1e6 / facts.read_tb_s);
                continue;
            }
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
