/* SPDX-License-Identifier: Apache-2.0
 *
 * The base's file: what it keeps is close to the whole distribution, and a damaged file is refused in words.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/kldfile.h"

#define N_CTX 8
#define ROWS  3 /* of one window: 8 - 1 - 4 */

static char path[] = "/tmp/test_kldfile_XXXXXX";
static int32_t ids[N_CTX] = {5, 1, 2, 3, 4, 0, 6, 7};
static const eval_text text = {.tokens = ids, .n_ctx = N_CTX, .n_chunks = 1, .bos = -1};

static uint32_t state = 7;
static float uniform(float low, float high) {
    state = state * 1664525u + 1013904223u;
    return low + (high - low) * (float)(state >> 8) / 16777216.0f;
}

/* Logits with a few likely tokens and a long tail, like a model's. */
static float *make_rows(size_t vocab, float spread) {
    float *x = malloc(ROWS * vocab * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < ROWS * vocab; i++)
        x[i] = uniform(0, 1) < 0.01f ? uniform(5, 15) : uniform(-spread, 2);
    return x;
}

static void save(const float *x, size_t vocab) {
    kldfile_writer *w = NULL;
    nib_error err;
    assert_int_equal(kldfile_create(&w, path, &text, (int32_t)vocab, ROWS, &err), NIB_OK);
    for (int i = 0; i < ROWS; i++) {
        softmax_row row = softmax_of(x + (size_t)i * vocab, vocab);
        kldfile_encode(w, i, x + (size_t)i * vocab, &row, ids[N_CTX / 2 + 1 + i]);
    }
    assert_int_equal(kldfile_write(w, ROWS, &err), NIB_OK);
    assert_int_equal(kldfile_commit(w, &err), NIB_OK);
}

static void check_close(size_t vocab, float spread, double noise) {
    float *x = make_rows(vocab, spread), *y = malloc(ROWS * vocab * sizeof *y);
    assert_non_null(y);
    for (size_t i = 0; i < ROWS * vocab; i++)
        y[i] = x[i] + uniform((float)-noise, (float)noise);
    save(x, vocab);
    kldfile_reader *f = NULL;
    nib_error err;
    assert_int_equal(kldfile_open(&f, path, &err), NIB_OK);
    assert_int_equal(kldfile_match(f, &text, (int32_t)vocab, &err), NIB_OK);
    for (int i = 0; i < ROWS; i++) {
        const float *a = x + (size_t)i * vocab, *b = y + (size_t)i * vocab;
        softmax_row p = softmax_of(a, vocab), q = softmax_of(b, vocab);
        kldfile_record r;
        assert_int_equal(kldfile_next(f, &r, &err), NIB_OK);
        assert_int_equal(r.top, p.argmax);
        assert_true(fabs(r.target_log_prob - softmax_log_prob(a, &p, ids[N_CTX / 2 + 1 + i])) < 1e-5);
        assert_true(r.tail <= 1.01e-4);
        double exact = softmax_kl(a, &p, b, &q, vocab), stored = kldfile_kl(&r, b, &q);
        if (fabs(exact - stored) > 2e-5 + 2e-4 * exact)
            fail_msg("vocabulary %zu: %g stored, %g exact", vocab, stored, exact);
    }
    kldfile_record r;
    assert_int_equal(kldfile_next(f, &r, &err), NIB_BAD_FILE);
    kldfile_close(f);
    free(x);
    free(y);
}

static void test_close(void **unused) {
    (void)unused;
    check_close(16, 4, 0.3);
    check_close(1000, 10, 0.5);
    check_close(49152, 20, 0.5);
    check_close(49152, 3, 1.5);   /* flat: nearly all tokens are kept */
    check_close(262144, 60, 0.1); /* gaps of more than 16 bits */
}

/* One token has everything: nothing to encode but that. */
static void test_peaked(void **unused) {
    (void)unused;
    size_t vocab = 200000;
    float *x = calloc(ROWS * vocab, sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < ROWS; i++)
        x[(size_t)i * vocab + 150000] = 90;
    save(x, vocab);
    kldfile_reader *f = NULL;
    nib_error err;
    assert_int_equal(kldfile_open(&f, path, &err), NIB_OK);
    kldfile_record r;
    assert_int_equal(kldfile_next(f, &r, &err), NIB_OK);
    assert_int_equal(r.top, 150000);
    softmax_row row = softmax_of(x, vocab);
    assert_true(fabs(kldfile_kl(&r, x, &row)) < 1e-6);
    kldfile_close(f);
    free(x);
}

static void test_match(void **unused) {
    (void)unused;
    float *x = make_rows(64, 4);
    save(x, 64);
    free(x);
    kldfile_reader *f = NULL;
    nib_error err;
    assert_true(kldfile_is(path));
    int n_ctx, n_chunks;
    assert_int_equal(eval_kld_file_shape(path, &n_ctx, &n_chunks, &err), NIB_OK);
    assert_int_equal(n_ctx, N_CTX);
    assert_int_equal(n_chunks, 1);
    assert_int_equal(kldfile_open(&f, path, &err), NIB_OK);
    assert_int_equal(kldfile_match(f, &text, 65, &err), NIB_BAD_ARGUMENT);
    eval_text other = text;
    other.n_chunks = 2;
    assert_int_equal(kldfile_match(f, &other, 64, &err), NIB_BAD_ARGUMENT);
    other = text;
    other.bos = 1;
    assert_int_equal(kldfile_match(f, &other, 64, &err), NIB_BAD_ARGUMENT);
    int32_t changed[N_CTX];
    memcpy(changed, ids, sizeof ids);
    changed[6] = 9;
    other = text;
    other.tokens = changed;
    assert_int_equal(kldfile_match(f, &other, 64, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "another text"));
    kldfile_close(f);
}

/* Nothing ever writes to it: waiting would last for ever. */
static void test_fifo(void **unused) {
    (void)unused;
    char fifo[] = "/tmp/test_kldfifo_XXXXXX";
    assert_non_null(mkdtemp(fifo));
    char name[64];
    snprintf(name, sizeof name, "%s/fifo", fifo);
    assert_int_equal(mkfifo(name, 0600), 0);
    alarm(20);
    assert_false(kldfile_is(name));
    alarm(0);
    unlink(name);
    rmdir(fifo);
}

static void write_file(const unsigned char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Opens and reads everything; the first failure's status. */
static nib_status read_all(nib_error *err) {
    kldfile_reader *f = NULL;
    nib_status status = kldfile_open(&f, path, err);
    if (status != NIB_OK)
        return status;
    for (int i = 0; status == NIB_OK && i < ROWS; i++) {
        kldfile_record r;
        status = kldfile_next(f, &r, err);
    }
    kldfile_close(f);
    return status;
}

#define METADATA "{\"__metadata__\":{\"format\":\"pt\"}"
enum {
    METADATA_BEGIN = 8 + 17,
    METADATA_END = 8 + sizeof METADATA - 3
}; /* what stands between its braces' quotes */

static void test_damage(void **unused) {
    (void)unused;
    float *x = make_rows(48, 4);
    save(x, 48);
    free(x);
    static unsigned char good[8192], bad[8192];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(good, 1, sizeof good, f);
    fclose(f);
    assert_true(n > 100 && n < sizeof good);
    assert_memory_equal(good + 8, METADATA, sizeof METADATA - 1);
    nib_error err;
    assert_int_equal(read_all(&err), NIB_OK);
    for (size_t cut = 1; cut < n; cut++) { /* every length */
        write_file(good, cut);
        assert_int_equal(read_all(&err), NIB_BAD_FILE);
        assert_non_null(strstr(err.text, path));
    }
    for (size_t i = 0; i < n; i++) /* every byte */
        for (int bit = 0; bit < 8; bit += 3) {
            memcpy(bad, good, n);
            bad[i] ^= (unsigned char)(1 << bit);
            write_file(bad, n);
            if (i > METADATA_BEGIN && i < METADATA_END)
                (void)read_all(&err); /* words for others, that we do not read */
            else
                assert_int_not_equal(read_all(&err), NIB_OK);
        }
    memcpy(bad, good, n); /* a vocabulary past every bound */
    uint64_t header;
    memcpy(&header, good, sizeof header);
    memset(bad + 8 + header, 0x7F, 4);
    write_file(bad, n);
    assert_int_equal(read_all(&err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "out of range"));
}

static int set_up(void **unused) {
    (void)unused;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **unused) {
    (void)unused;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_close), cmocka_unit_test(test_peaked),
                                       cmocka_unit_test(test_match), cmocka_unit_test(test_fifo),
                                       cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
