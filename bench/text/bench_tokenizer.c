/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast a tokenizer.json opens and tokenizes: CPU time of one thread, the best of several rounds.
 *
 * usage: bench_tokenizer TOKENIZER.json TEXT [ROUNDS]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mapfile.h"
#include "text/tokenizer.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static nib_status measure(const token_source *source, const mapfile *text, int rounds, nib_error *err) {
    double open_s = 1e30, encode_s = 1e30;
    size_t n_ids = 0;
    for (int i = 0; i < rounds; i++) {
        tokenizer *t;
        token_list list = {0};
        double start = cpu_seconds(), took;
        NIB_TRY(tokenizer_open(&t, source, err));
        took = cpu_seconds() - start;
        open_s = took < open_s ? took : open_s;
        start = cpu_seconds();
        const nib_status status = tokenizer_encode(t, (const char *)text->bytes, text->size, 0, &list, err);
        took = cpu_seconds() - start;
        encode_s = took < encode_s ? took : encode_s;
        n_ids = list.n;
        token_list_free(&list);
        tokenizer_close(t);
        NIB_TRY(status);
    }
    printf("{\"ids\": %zu, \"open_s\": %.3f, \"encode_s\": %.4f, \"mb_per_s\": %.1f}\n", n_ids, open_s,
           encode_s, (double)text->size / encode_s / 1e6);
    return NIB_OK;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER.json TEXT [ROUNDS]\n");
        return 2;
    }
    mapfile json = {0}, text = {0};
    nib_error err = {""};
    nib_status status = mapfile_open(&json, argv[1], &err);
    if (status == NIB_OK)
        status = mapfile_open(&text, argv[2], &err);
    if (status == NIB_OK) {
        const token_source source = {.where = argv[1],
                                     .json = {(const char *)json.bytes, json.size},
                                     .bos = -1,
                                     .eos = -1,
                                     .eot = -1,
                                     .unk = -1,
                                     .pad = -1};
        status = measure(&source, &text, argc > 3 ? atoi(argv[3]) : 5, &err);
    }
    mapfile_close(&json);
    mapfile_close(&text);
    if (status != NIB_OK)
        fprintf(stderr, "bench_tokenizer: %s\n", err.text);
    return status == NIB_OK ? 0 : 1;
}
