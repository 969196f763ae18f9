/* SPDX-License-Identifier: Apache-2.0
 *
 * An importance matrix (eval/imatrix.h) for a small Llama: refused in words, or every mean that it gives is a
 * finite number of no sign; what was read can be freed and read again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "eval/calibrate.h"
#include "eval/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As tests/golden/models/llama-words. */
static const model_file llama = {.path = "llama",
                                 .has_network = true,
                                 .network_note = "",
                                 .hp = {.family = FAMILY_LLAMA,
                                        .n_layers = 2,
                                        .dim = 24,
                                        .ffn_dim = 40,
                                        .n_heads = 3,
                                        .n_kv_heads = 1,
                                        .head_dim = 16,
                                        .vocab = 280}};

static void check(const importance *i, const imatrix_about *about) {
    size_t found = 0;
    for (size_t k = 0; k < (size_t)i->n_layers * SLOT_COUNT; k++) {
        size_t rows, cols;
        if (!i->mean_squares[k])
            continue;
        if (!hparams_has(&llama.hp, (slot)(k % SLOT_COUNT), &rows, &cols))
            abort();
        for (size_t c = 0; c < cols; c++)
            if (!(i->mean_squares[k][c] >= 0 && isfinite(i->mean_squares[k][c])))
                abort();
        found++;
    }
    if (found == 0 || found != about->n_tensors)
        abort();
}

static nib_status read_file(const char *path) {
    importance i;
    imatrix_about about;
    nib_error err = {""};
    const nib_status status = imatrix_read(&i, &llama, path, &about, &err);
    if (status != NIB_OK) {
        if (!err.text[0] || i.mean_squares)
            abort();
        return status;
    }
    check(&i, &about);
    calibrate_free(&i);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    const int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (read_file(path) == NIB_OK && size % 16 == 0)
        for (long n = 0;; n += 1 + n / 4) {
            mem_fail_after(n);
            const nib_status status = read_file(path);
            mem_fail_after(-1);
            if (status != NIB_NO_MEMORY)
                break;
        }
    close(fd);
    return 0;
}
