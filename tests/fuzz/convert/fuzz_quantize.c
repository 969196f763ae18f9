/* SPDX-License-Identifier: Apache-2.0
 *
 * A GGUF file quantized to a directory or to GGUF, and a directory so made written as GGUF again (its
 * tokenizer.json is read, too). The last byte of the input, a weight's in most, chooses format, method, head
 * and container; allocations fail on some inputs. What was written opens; after a refusal nothing is there.
 */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "convert/convert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_ELEMENTS ((size_t)1 << 20) /* so that an input stays fast */

static char root[64];

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

static void remove_root(void) {
    nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *in_root(char path[128], const char *name) {
    snprintf(path, 128, "%s/%s", root, name);
    return path;
}

static void make_root(void) {
    snprintf(root, sizeof root, "%s/fuzzXXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(root))
        abort();
    atexit(remove_root);
}

static nib_status quantize(const model_file *f, const char *out, const convert_options *o) {
    nib_error err = {""};
    convert_report report;
    nib_status status = convert(f, out, o, &report, &err);
    if (status != NIB_OK && (!err.text[0] || access(out, F_OK) == 0))
        abort(); /* a refusal without words, or that leaves something */
    return status;
}

/* What convert wrote, nibble reads. */
static model_file *open_written(const char *path) {
    model_file *f;
    nib_error err = {""};
    nib_status status = model_file_open(&f, path, &err);
    if (status != NIB_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return f;
}

static convert_options choose(uint8_t byte) {
    static const quant_method methods[] = {QM_RTN, QM_SWEEP, QM_FOUR_OVER_SIX, QM_SWEEP};
    static const out_kind kinds[] = {OUT_MODELOPT, OUT_GGUF, OUT_COMPRESSED_TENSORS, OUT_MODELOPT};
    const out_kind out = kinds[byte >> 6 & 3];
    const bool gguf = out == OUT_GGUF; /* wider formats of its kind */
    const quant_format formats[] = {QF_NVFP4, QF_MXFP4, gguf ? QF_Q8_0 : QF_FP8, QF_BF16};
    const head_policy heads[] = {HEAD_KEEP, HEAD_NVFP4, gguf ? HEAD_Q8_0 : HEAD_FP8, HEAD_KEEP};
    return (convert_options){.format = formats[byte & 3],
                             .method = methods[byte >> 2 & 3],
                             .head = heads[byte >> 4 & 3],
                             .out = out,
                             .threads = 1};
}

static void quantize_file(const model_file *f, convert_options o) {
    char path[128], back[128];
    in_root(path, o.out == OUT_GGUF ? "out.gguf" : "out");
    if (quantize(f, path, &o) != NIB_OK)
        return;
    model_file *written = open_written(path);
    if (o.out != OUT_GGUF) {
        o.out = OUT_GGUF;
        if (quantize(written, in_root(back, "back.gguf"), &o) == NIB_OK) {
            model_file_close(open_written(back));
            remove(back);
        }
    }
    model_file_close(written);
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void fail_allocations(const model_file *f, const convert_options *o) {
    char path[128];
    in_root(path, o->out == OUT_GGUF ? "out.gguf" : "out");
    for (long n = 0;; n += 1 + n / 4) {
        mem_fail_after(n);
        nib_status status = quantize(f, path, o);
        mem_fail_after(-1);
        if (status == NIB_OK)
            nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
        if (status != NIB_NO_MEMORY)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    model_file *f;
    nib_error err = {""};
    if (!root[0])
        make_root();
    if (!size)
        return 0;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (model_file_open(&f, path, &err) == NIB_OK) {
        size_t n = 0;
        for (size_t i = 0; i < f->n_tensors; i++)
            n += f->tensors[i].rows * f->tensors[i].cols;
        convert_options o = choose(data[size - 1]);
        if (n <= MAX_ELEMENTS && size % 16 == 0)
            fail_allocations(f, &o);
        else if (n <= MAX_ELEMENTS)
            quantize_file(f, o);
        model_file_close(f);
    }
    close(fd);
    return 0;
}
