/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and writing the base's distributions. The format is in kldfile.h. A file comes from a disk or a
 * stranger: every count is checked before it is used, every record against its check.
 */
#include "eval/kldfile.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "export/safetensors_write.h"
#include "store/safetensors.h"

#define RECORDS      "kld.distributions" /* the tensor by which such a file is known */
#define RECORD_BYTES 28                  /* before the gaps */
#define TAIL_MAX     1e-4
#define BINS         1024 /* of the histogram that finds the cut, BIN_PER_NAT to a unit of ln p */
#define BINS_PER_NAT 32.0f
#define MAX_CTX      (1u << 20)
#define MAX_CHUNKS   (1u << 24)
#define MAX_VOCAB    (1u << 24)

static void put32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

static uint32_t get32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put16(unsigned char *p, uint32_t v) {
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

static uint32_t get16(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static void put_float(unsigned char *p, float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    put32(p, bits);
}

static float get_float(const unsigned char *p) {
    uint32_t bits = get32(p);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t check_add(uint32_t check, const unsigned char *p, size_t n) {
    for (; n >= 4; p += 4, n -= 4)
        check = (check ^ get32(p)) * 16777619u;
    for (; n >= 2; p += 2, n -= 2)
        check = (check ^ get16(p)) * 16777619u;
    return check;
}
#define CHECK_START 2166136261u

/* ---- writing ---- */

struct kldfile_writer {
    safetensors_write *file;
    size_t vocab;
    size_t stride;          /* bytes of one row's buffer */
    unsigned char *rows;    /* [max_rows, stride] */
    size_t *sizes;          /* [max_rows] */
    double (*masses)[BINS]; /* [max_rows] */
};

static void writer_free(kldfile_writer *w) {
    mem_free(w->rows);
    mem_free(w->sizes);
    mem_free(w->masses);
    mem_free(w);
}

/* Of ABOUT without itself, and of the ids. */
static uint32_t ids_check(const int32_t about[3], const unsigned char *ids, size_t n_ids) {
    uint32_t check = check_add(CHECK_START, (const unsigned char *)about, 2 * sizeof *about);
    return check_add(check, ids, 4 * n_ids);
}

static nib_status write_header(kldfile_writer *w, const eval_text *text, nib_error *err) {
    size_t dims[] = {(size_t)text->n_chunks, (size_t)text->n_ctx}, n_ids = dims[0] * dims[1];
    int32_t about[] = {(int32_t)w->vocab, text->bos, 0};
    about[2] = (int32_t)ids_check(about, (const unsigned char *)text->tokens, n_ids);
    safetensors_write_tensor(w->file, "kld.vocab_bos_check", DT_I32, 1, (size_t[]){3});
    safetensors_write_tensor(w->file, "kld.windows", DT_I32, 2, dims);
    safetensors_write_rest(w->file, RECORDS);
    NIB_TRY(safetensors_write_begin(w->file, err));
    NIB_TRY(safetensors_write_data(w->file, about, sizeof about, err));
    return safetensors_write_data(w->file, text->tokens, n_ids * sizeof *text->tokens, err);
}

nib_status kldfile_create(kldfile_writer **out, const char *path, const eval_text *text, int32_t vocab,
                          int max_rows, nib_error *err) {
    kldfile_writer *w = mem_array(1, sizeof *w);
    if (!w)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    w->vocab = (size_t)vocab;
    w->stride = RECORD_BYTES + 4 * (size_t)vocab;
    w->rows = mem_array((size_t)max_rows, w->stride);
    w->sizes = mem_array((size_t)max_rows, sizeof *w->sizes);
    w->masses = mem_array((size_t)max_rows, sizeof *w->masses);
    nib_status status = NIB_OK;
    if (!w->rows || !w->sizes || !w->masses)
        status =
            nib_fail(err, NIB_NO_MEMORY, "out of memory for %d rows of a vocabulary of %d", max_rows, vocab);
    if (status == NIB_OK)
        status = safetensors_write_open(&w->file, path, err);
    if (status == NIB_OK)
        status = write_header(w, text, err);
    if (status != NIB_OK) {
        safetensors_write_abandon(w->file);
        writer_free(w);
        return status;
    }
    *out = w;
    return NIB_OK;
}

/* How far below the maximum (in ln p) tokens are kept, so that the rest weighs at most TAIL_MAX. */
static float find_cut(const float *x, size_t n, const softmax_row *row, double *mass) {
    memset(mass, 0, BINS * sizeof *mass);
    double z = exp(row->log_sum);
    for (size_t i = 0; i < n; i++) {
        float below = row->max - x[i];
        int bin = below < BINS / BINS_PER_NAT ? (int)(below * BINS_PER_NAT) : BINS - 1;
        mass[bin < BINS ? bin : BINS - 1] += softmax_exp(-below);
    }
    double tail = 0;
    int bin = BINS;
    while (bin > 1 && (tail + mass[bin - 1]) / z <= TAIL_MAX)
        tail += mass[--bin];
    return bin == BINS ? INFINITY : (float)bin / BINS_PER_NAT;
}

void kldfile_encode(kldfile_writer *w, int i, const float *x, const softmax_row *row, int32_t target) {
    unsigned char *p = w->rows + (size_t)i * w->stride;
    w->sizes[i] = 0;
    if (!isfinite(row->log_sum))
        return; /* the caller refuses such a row before it is written */
    float cut = find_cut(x, w->vocab, row, w->masses[i]);
    float lowest = row->max;
    size_t n = 0;
    unsigned char *gaps = p + RECORD_BYTES;
    double kept = 0;
    for (size_t v = 0, next = 0; v < w->vocab; v++) {
        if (row->max - x[v] >= cut && v - next < 65535)
            continue;
        put16(gaps + 2 * n++, (uint32_t)(v - next));
        next = v + 1;
        lowest = x[v] < lowest ? x[v] : lowest;
        kept += softmax_exp(x[v] - row->max);
    }
    float step = (row->max - lowest) / 65535.0f;
    unsigned char *codes = gaps + 2 * n;
    for (size_t k = 0, v = 0; k < n; k++, v++) {
        v += get16(gaps + 2 * k);
        double code = step > 0 ? rint(((double)row->max - x[v]) / step) : 0;
        put16(codes + 2 * k, (uint32_t)(code < 65535 ? code : 65535));
    }
    double tail = 1 - kept * exp(-row->log_sum);
    put32(p + 4, (uint32_t)n);
    put32(p + 8, (uint32_t)row->argmax);
    put_float(p + 12, (float)softmax_log_prob(x, row, target));
    put_float(p + 16, (float)-row->log_sum);
    put_float(p + 20, step);
    put_float(p + 24, n == w->vocab || tail < 0 ? 0.0f : (float)tail);
    w->sizes[i] = RECORD_BYTES + 4 * n;
    put32(p, check_add(CHECK_START, p + 4, w->sizes[i] - 4));
}

nib_status kldfile_write(kldfile_writer *w, int n_rows, nib_error *err) {
    for (int i = 0; i < n_rows; i++)
        NIB_TRY(safetensors_write_data(w->file, w->rows + (size_t)i * w->stride, w->sizes[i], err));
    return NIB_OK;
}

nib_status kldfile_commit(kldfile_writer *w, nib_error *err) {
    nib_status status = safetensors_write_commit(w->file, NULL, err);
    writer_free(w);
    return status;
}

void kldfile_abandon(kldfile_writer *w) {
    safetensors_write_abandon(w->file);
    writer_free(w);
}

/* ---- reading ---- */

struct kldfile_reader {
    const char *path;
    safetensors file;
    uint32_t n_ctx, n_chunks, vocab;
    int32_t bos;
    const unsigned char *ids; /* i32 [n_chunks, n_ctx] */
    const unsigned char *records;
    size_t bytes, at; /* of the records; of the next one */
};

static const safetensors_tensor *find(const safetensors *s, const char *name, const char *dtype_name,
                                      int n_dims) {
    for (size_t i = 0; i < s->n_tensors; i++) {
        const safetensors_tensor *t = &s->tensors[i];
        if (strcmp(t->name, name) == 0 && strcmp(t->dtype_name, dtype_name) == 0 && t->n_dims == n_dims)
            return t;
    }
    return NULL;
}

bool kldfile_is(const char *path) {
    safetensors s = {0};
    /* a FIFO is refused, not waited for */
    const bool is = safetensors_open(&s, path, NULL) == NIB_OK && find(&s, RECORDS, "U8", 1);
    safetensors_close(&s);
    return is;
}

static nib_status read_header(kldfile_reader *f, nib_error *err) {
    const safetensors_tensor *about = find(&f->file, "kld.vocab_bos_check", "I32", 1);
    const safetensors_tensor *ids = find(&f->file, "kld.windows", "I32", 2);
    const safetensors_tensor *records = find(&f->file, RECORDS, "U8", 1);
    if (!about || about->dims[0] != 3 || !ids || !records)
        return nib_fail(err, NIB_BAD_FILE, "%s: no file of base distributions (written with --save-base)",
                        f->path);
    int32_t numbers[3];
    memcpy(numbers, about->data, sizeof numbers);
    if (ids->dims[1] < 4 || ids->dims[1] > MAX_CTX || ids->dims[0] < 1 || ids->dims[0] > MAX_CHUNKS ||
        numbers[0] < 1 || numbers[0] > (int32_t)MAX_VOCAB)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: %zu windows of %zu tokens from a vocabulary of %d: out of range", f->path,
                        ids->dims[0], ids->dims[1], numbers[0]);
    f->n_chunks = (uint32_t)ids->dims[0];
    f->n_ctx = (uint32_t)ids->dims[1];
    f->vocab = (uint32_t)numbers[0];
    f->bos = numbers[1];
    f->ids = ids->data;
    f->records = records->data;
    f->bytes = records->bytes;
    if (ids_check(numbers, f->ids, (size_t)f->n_ctx * f->n_chunks) != (uint32_t)numbers[2])
        return nib_fail(err, NIB_BAD_FILE, "%s: the windows do not match their check: the file is damaged",
                        f->path);
    return NIB_OK;
}

nib_status kldfile_open(kldfile_reader **out, const char *path, nib_error *err) {
    kldfile_reader *f = mem_array(1, sizeof *f);
    if (!f)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    f->path = path;
    nib_status status = safetensors_open(&f->file, path, err);
    if (status == NIB_OK)
        status = read_header(f, err);
    if (status != NIB_OK) {
        kldfile_close(f);
        return status;
    }
    *out = f;
    return NIB_OK;
}

void kldfile_close(kldfile_reader *f) {
    safetensors_close(&f->file);
    mem_free(f);
}

int32_t kldfile_vocab(const kldfile_reader *f) {
    return (int32_t)f->vocab;
}

nib_status eval_kld_file_shape(const char *path, int *n_ctx, int *n_chunks, nib_error *err) {
    kldfile_reader *f = NULL;
    NIB_TRY(kldfile_open(&f, path, err));
    *n_ctx = (int)f->n_ctx;
    *n_chunks = (int)f->n_chunks;
    kldfile_close(f);
    return NIB_OK;
}

nib_status kldfile_match(const kldfile_reader *f, const eval_text *text, int32_t vocab, nib_error *err) {
    if ((int32_t)f->vocab != vocab)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: its vocabulary has %u tokens, the model's %d", f->path,
                        f->vocab, vocab);
    if ((int)f->n_ctx != text->n_ctx || (int)f->n_chunks < text->n_chunks)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: it holds %u windows of %u tokens, and %d of %d are asked for", f->path,
                        f->n_chunks, f->n_ctx, text->n_chunks, text->n_ctx);
    if (f->bos != text->bos)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: its windows begin with token %d, the model's with %d (-1: none)", f->path,
                        f->bos, text->bos);
    for (size_t i = 0; i < (size_t)text->n_ctx * (size_t)text->n_chunks; i++) {
        int32_t id = (int32_t)get32(f->ids + 4 * i);
        if (id != text->tokens[i])
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "%s: made from another text or tokenizer: token %zu is %d there, %d here",
                            f->path, i, id, text->tokens[i]);
    }
    return NIB_OK;
}

/* The ids that the gaps give stay below the vocabulary. */
static bool gaps_fit(const unsigned char *gaps, uint32_t n, uint32_t vocab) {
    uint64_t next = 0;
    for (uint32_t i = 0; i < n; i++)
        next += get16(gaps + 2 * (size_t)i) + 1;
    return next <= vocab;
}

nib_status kldfile_next(kldfile_reader *f, kldfile_record *out, nib_error *err) {
    size_t left = f->bytes - f->at;
    const unsigned char *p = f->records + f->at;
    if (left < RECORD_BYTES)
        return nib_fail(err, NIB_BAD_FILE, "%s: ends within the distributions (at byte %zu)", f->path,
                        f->bytes);
    uint32_t n = get32(p + 4);
    if (n < 1 || n > f->vocab || 4 * (size_t)n > left - RECORD_BYTES)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: a distribution of %u tokens at byte %zu; %u in the vocabulary, %zu "
                        "bytes left",
                        f->path, n, f->at, f->vocab, left);
    size_t bytes = RECORD_BYTES + 4 * (size_t)n;
    if (check_add(CHECK_START, p + 4, bytes - 4) != get32(p))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: the distribution at byte %zu does not match its check: the file is "
                        "damaged",
                        f->path, f->at);
    *out = (kldfile_record){.n = n,
                            .top = (int32_t)get32(p + 8),
                            .target_log_prob = get_float(p + 12),
                            .max_log_prob = get_float(p + 16),
                            .step = get_float(p + 20),
                            .tail = get_float(p + 24),
                            .gaps = p + RECORD_BYTES,
                            .codes = p + RECORD_BYTES + 2 * (size_t)n};
    bool sane = out->target_log_prob <= 0 && out->max_log_prob <= 0 && out->step >= 0 && out->tail >= 0 &&
                out->tail <= 1 && isfinite(out->target_log_prob) && isfinite(out->max_log_prob) &&
                isfinite(out->step) && gaps_fit(out->gaps, n, f->vocab);
    if (!sane)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: the distribution at byte %zu is none: a probability above 1 or an id "
                        "outside the vocabulary",
                        f->path, f->at);
    f->at += bytes;
    return NIB_OK;
}

double kldfile_kl(const kldfile_record *r, const float *x, const softmax_row *row) {
    double sum = 0, q_kept = 0, log_z = row->max + row->log_sum;
    size_t v = 0;
    for (size_t k = 0; k < r->n; k++, v++) {
        v += get16(r->gaps + 2 * k);
        double log_p = r->max_log_prob - r->step * get16(r->codes + 2 * k);
        double log_q = x[v] - log_z;
        sum += softmax_exp((float)log_p) * (log_p - log_q);
        q_kept += softmax_exp((float)(log_q < 0 ? log_q : 0));
    }
    if (r->tail > 0) { /* the rest as one event */
        double q_tail = 1 - q_kept;
        sum += r->tail * (log(r->tail) - log(q_tail > 1e-10 ? q_tail : 1e-10));
    }
    return sum;
}
