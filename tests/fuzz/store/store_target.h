/* SPDX-License-Identifier: Apache-2.0
 *
 * What the store's fuzz targets share: a model opened from bytes, everything it hands out touched, and the
 * same with the N-th allocation failing for growing N (the _nomem targets), so that one corpus serves both.
 */
#ifndef FUZZ_STORE_TARGET_H
#define FUZZ_STORE_TARGET_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "store/model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double store_target_sink; /* keeps the reads */

/* Reads what an accepted file promises: every byte of every tensor, the last row's values, the words. */
static inline void store_target_touch(const model_file *f) {
    static float row[1 << 16];
    double sum = 0;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const tensor *t = &f->tensors[i];
        for (size_t j = 0; j < t->bytes; j += 512)
            sum += ((const unsigned char *)t->data)[j];
        if (t->bytes)
            sum += ((const unsigned char *)t->data)[t->bytes - 1];
        sum += (double)strlen(t->name) + (double)strlen(model_file_format_name(f, t));
        if (t->rows && t->cols && t->cols <= sizeof row / sizeof row[0] && dtype_get(t->dtype)->is_weight &&
            t->cols % dtype_get(t->dtype)->block == 0 && t->bytes) {
            tensor_decode_row(t, t->rows - 1, row);
            sum += (double)row[t->cols - 1];
        }
    }
    for (size_t i = 0; i < f->words.n_tokens; i++)
        sum += (double)f->words.tokens[i].n + (f->words.tokens[i].n ? f->words.tokens[i].p[0] : 0) +
               (f->words.scores ? (double)f->words.scores[i] : 0) + (f->words.types ? f->words.types[i] : 0);
    if (f->words.chat_template.n)
        sum += f->words.chat_template.p[f->words.chat_template.n - 1];
    if (f->has_network && !model_file_find(f, place_of(SLOT_EMBED, PLACE_NO_LAYER)))
        abort();
    store_target_sink = sum;
}

static inline nib_status store_target_open(const char *path) {
    model_file *f;
    nib_error err = {""};
    nib_status status = model_file_open(&f, path, &err);
    if (status == NIB_OK) {
        store_target_touch(f);
        model_file_close(f);
    } else if (!err.text[0]) {
        abort(); /* a refusal without words */
    }
    return status;
}

/* With failing allocations: N grows until the reader no longer runs out of memory. */
static inline void store_target_open_nomem(const char *path) {
    for (long n = 0;; n += 1 + n / 6) {
        mem_fail_after(n);
        nib_status status = store_target_open(path);
        mem_fail_after(-1);
        if (status != NIB_NO_MEMORY)
            return;
    }
}

/* A path that holds DATA: a file in memory. Closed with close(*fd). */
static inline const char *store_target_file(const uint8_t *data, size_t size, int *fd) {
    static char path[64];
    *fd = memfd_create("fuzz", 0);
    if (*fd < 0 || write(*fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    return path;
}

static inline int store_target_run_file(const uint8_t *data, size_t size, void (*run)(const char *path)) {
    int fd;
    run(store_target_file(data, size, &fd));
    close(fd);
    return 0;
}

static inline void store_target_plain(const char *path) {
    store_target_open(path);
}

#endif
