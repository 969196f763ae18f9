/* SPDX-License-Identifier: Apache-2.0
 *
 * A base's distributions in a file (eval/kldfile.h): opened or refused in words; every record that is handed
 * out has ids inside the vocabulary, and its divergence from any finite logits is a number.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "eval/kldfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_VOCAB = 1 << 16, MAX_RECORDS = 64 };

/* The ids that stand in the file's windows tell its vocabulary's bound: logits of as many as are asked for.
 */
static void read_records(kldfile_reader *f, int32_t vocab) {
    float *x = mem_array((size_t)vocab, sizeof *x);
    kldfile_record r;
    nib_error err = {""};
    if (!x)
        return;
    for (int32_t v = 0; v < vocab; v++)
        x[v] = (float)(v % 97) * 0.25f;
    const softmax_row row = softmax_of(x, (size_t)vocab);
    for (int i = 0; i < MAX_RECORDS; i++) {
        if (kldfile_next(f, &r, &err) != NIB_OK) {
            if (!err.text[0])
                abort();
            break;
        }
        if (r.n > (uint32_t)vocab || isnan(kldfile_kl(&r, x, &row)))
            abort();
    }
    mem_free(x);
}

static void read_file(const char *path) {
    kldfile_reader *f;
    nib_error err = {""};
    int n_ctx = 0, n_chunks = 0;
    const nib_status status = eval_kld_file_shape(path, &n_ctx, &n_chunks, &err);
    if ((status == NIB_OK) != kldfile_is(path) && status == NIB_OK)
        abort();
    if (kldfile_open(&f, path, &err) != NIB_OK) {
        if (!err.text[0] || status == NIB_OK)
            abort();
        return;
    }
    if (status != NIB_OK || n_ctx < 4 || n_chunks < 1)
        abort();
    const int32_t vocab = kldfile_vocab(f);
    if (vocab <= MAX_VOCAB)
        read_records(f, vocab);
    kldfile_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    const int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    read_file(path);
    close(fd);
    return 0;
}
