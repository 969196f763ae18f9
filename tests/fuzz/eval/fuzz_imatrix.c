/* SPDX-License-Identifier: Apache-2.0
 *
 * An importance matrix (eval/imatrix.h) for a small Llama: refused in words, or every mean that it gives is a
 * finite number, without a sign where it is of squares, and every block can be factored; what was read can be
 * freed and read again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "eval/imatrix.h"
#include "quant/gptq.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As tests/golden/models/llama-words. */
static const model_file llama = {.path = "llama",
                                 .has_network = true,
                                 .network_note = "",
                                 .hp = {.family = FAMILY_LLAMA,
                                        .n_layers = 2,
                                        .dim = 48,
                                        .ffn_dim = 40,
                                        .n_heads = 3,
                                        .n_kv_heads = 1,
                                        .head_dim = 16,
                                        .vocab = 280}};

static bool fine(const float *x, size_t n, bool sign) {
    for (size_t i = 0; x && i < n; i++)
        if (!isfinite(x[i]) || (x[i] < 0 && !sign))
            return false;
    return true;
}

static void check(const input_stats *s, const imatrix_about *about) {
    importance means;
    nib_error err;
    gptq_factor f = {0};
    float *reach;
    size_t found = 0;
    if (input_stats_importance(&means, s, &llama.hp, true, &err) != NIB_OK ||
        input_stats_reach(&reach, s, &err) != NIB_OK)
        abort();
    for (size_t k = 0; k < (size_t)s->n_layers * SLOT_COUNT; k++) {
        const slot from = input_stats_slot((slot)(k % SLOT_COUNT));
        const size_t cols = input_stats_cols(&llama.hp, from, (int)(k / SLOT_COUNT));
        found += s->of[k].sums != NULL;
        if (!fine(means.mean_squares[k], cols, false) || !fine(means.blocks[k], cols * 16, true) ||
            !fine(&reach[k], 1, false) || !fine(s->of[k].peaks, INPUT_STATS_PEAKS, false))
            abort();
        if (means.blocks[k] &&
            gptq_factor_of_blocks(&f, means.blocks[k], cols, GPTQ_BLOCKS, GPTQ_LOCAL_SHRINK, &err) != NIB_OK)
            abort();
        gptq_factor_free(&f);
    }
    if (found == 0 || found != about->n_tensors)
        abort();
    input_stats_forget(&means);
    mem_free(reach);
}

static nib_status read_file(const char *path) {
    input_stats s;
    imatrix_about about;
    nib_error err = {""};
    const nib_status status = imatrix_read(&s, &llama, path, &about, &err);
    if (status != NIB_OK) {
        if (!err.text[0] || s.of)
            abort();
        return status;
    }
    mem_fail_after(-1);
    check(&s, &about);
    input_stats_free(&s);
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
