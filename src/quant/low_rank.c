/* SPDX-License-Identifier: Apache-2.0
 *
 * B [rows, n], n a few vectors more than the rank: B <- W H W^T B, made orthonormal, ROUNDS times; then the
 * eigenvectors of B^T W H W^T B (Jacobi) turn B so that its first columns are the wanted ones.
 */
#include "quant/low_rank.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "num/bf16.h"
#include "quant/dense.h"

enum { SPARE = 8, ROUNDS = 5, SWEEPS = 12, BAND = 32 };

typedef struct finding {
    size_t rows, cols, n;
    double *w;     /* [rows, cols] */
    double *b;     /* [rows, n] */
    double *y, *z; /* [cols, n] */
    double *small; /* [n, n] */
    double *turn;  /* [n, n] */
    pool *team;
} finding;

/* ---- products ---- */

typedef struct product {
    double *c;
    dense_view a;
    const double *b;
    size_t n, k;
} product;

static void multiply_rows(void *arg, int thread, size_t begin, size_t end) {
    const product *p = arg;
    (void)thread;
    memset(p->c + begin * p->n, 0, (end - begin) * p->n * sizeof *p->c);
    dense_subtract(p->c + begin * p->n, p->n, (dense_view){p->a.at + begin * p->a.row, p->a.row, p->a.col},
                   p->b, p->n, end - begin, p->n, p->k);
}

/* C [m, n] = -A [m, k] B [k, n]. */
static void multiply(pool *team, double *c, dense_view a, const double *b, size_t m, size_t n, size_t k) {
    product p = {c, a, b, n, k};
    pool_for(team, m, BAND, multiply_rows, &p);
}

/* ---- vectors ---- */

/* Column J of B [rows, n] less its part in those before it. */
static void subtract_before(double *b, size_t rows, size_t n, size_t j, double *dots) {
    memset(dots, 0, j * sizeof *dots);
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < j; k++)
            dots[k] += b[r * n + k] * b[r * n + j];
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t k = 0; k < j; k++)
            sum += dots[k] * b[r * n + k];
        b[r * n + j] -= sum;
    }
}

static double square_of(const double *b, size_t rows, size_t n, size_t j) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        sum += b[r * n + j] * b[r * n + j];
    return sum;
}

/* Columns of B orthonormal, each against those before it, twice; what vanishes becomes zero. */
static void orthonormalize(double *b, size_t rows, size_t n) {
    double dots[LOW_RANK_MOST + SPARE];
    for (size_t j = 0; j < n; j++) {
        const double before = square_of(b, rows, n, j);
        subtract_before(b, rows, n, j, dots);
        subtract_before(b, rows, n, j, dots);
        const double after = square_of(b, rows, n, j);
        const double factor = after > before * 1e-24 ? 1 / sqrt(after) : 0;
        for (size_t r = 0; r < rows; r++)
            b[r * n + j] *= factor;
    }
}

/* Turns rows and columns P and Q of the symmetric A [n, n] so that a[p, q] vanishes; V's columns too. */
static void rotate(double *a, double *v, size_t n, size_t p, size_t q) {
    const double apq = a[p * n + q];
    if (apq == 0)
        return;
    const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
    const double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1));
    const double c = 1 / sqrt(t * t + 1), s = t * c;
    for (size_t i = 0; i < n; i++) {
        const double x = a[i * n + p], y = a[i * n + q];
        a[i * n + p] = c * x - s * y;
        a[i * n + q] = s * x + c * y;
    }
    for (size_t i = 0; i < n; i++) {
        const double x = a[p * n + i], y = a[q * n + i];
        a[p * n + i] = c * x - s * y;
        a[q * n + i] = s * x + c * y;
    }
    for (size_t i = 0; i < n; i++) {
        const double x = v[i * n + p], y = v[i * n + q];
        v[i * n + p] = c * x - s * y;
        v[i * n + q] = s * x + c * y;
    }
}

/* V: eigenvectors of the symmetric A [n, n] as columns, which becomes diagonal. */
static void eigenvectors(double *a, double *v, size_t n) {
    memset(v, 0, n * n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i * n + i] = 1;
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++)
                rotate(a, v, n, p, q);
}

/* The column of the K-th largest of A's diagonal. */
static size_t ranked(const double *a, size_t n, size_t k) {
    for (size_t i = 0; i < n; i++) {
        size_t above = 0;
        for (size_t j = 0; j < n; j++)
            above += a[j * n + j] > a[i * n + i] || (a[j * n + j] == a[i * n + i] && j < i);
        if (above == k)
            return i;
    }
    return 0;
}

/* ---- all of it ---- */

static nib_status read_rows(finding *f, const tensor *t, nib_error *err) {
    float *row = mem_array(f->cols, sizeof *row);
    bool finite = true;
    for (size_t r = 0; row && r < f->rows; r++) {
        tensor_decode_row(t, r, row);
        for (size_t c = 0; c < f->cols; c++) {
            finite &= isfinite(row[c]) != 0;
            f->w[r * f->cols + c] = (double)row[c];
        }
    }
    mem_free(row);
    if (!row)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for rows of %zu columns", f->cols);
    return finite ? NIB_OK
                  : nib_fail(err, NIB_BAD_FILE, "tensor %s holds a NaN or an infinity", QUOTEZ(t->name));
}

/* Y = -W^T B, Z = H W^T B. */
static void send_down(finding *f, const double *h) {
    multiply(f->team, f->y, (dense_view){f->w, 1, f->cols}, f->b, f->cols, f->n, f->rows);
    multiply(f->team, f->z, (dense_view){h, f->cols, 1}, f->y, f->cols, f->n, f->cols);
}

static nib_status iterate(finding *f, const double *h, const volatile sig_atomic_t *stop, nib_error *err) {
    uint64_t state = 1; /* any vectors will do to begin with, the same each time */
    for (size_t i = 0; i < f->rows * f->n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        f->b[i] = (double)(int64_t)state;
    }
    orthonormalize(f->b, f->rows, f->n);
    for (int round = 0; round < ROUNDS; round++) {
        NIB_TRY(stop_check(stop, err));
        send_down(f, h);
        multiply(f->team, f->b, (dense_view){f->w, f->cols, 1}, f->z, f->rows, f->n, f->cols);
        orthonormalize(f->b, f->rows, f->n);
    }
    send_down(f, h); /* z^T y = -B^T W H W^T B */
    multiply(NULL, f->small, (dense_view){f->z, 1, f->n}, f->y, f->n, f->n, f->cols);
    eigenvectors(f->small, f->turn, f->n);
    return NIB_OK;
}

/* UP = the first columns of B turned, DOWN = UP^T W. */
static void write_out(const finding *f, size_t rank, uint16_t *down, uint16_t *up) {
    for (size_t k = 0; k < rank; k++) {
        const size_t from = ranked(f->small, f->n, k);
        for (size_t r = 0; r < f->rows; r++) {
            double sum = 0;
            for (size_t i = 0; i < f->n; i++)
                sum += f->b[r * f->n + i] * f->turn[i * f->n + from];
            up[r * rank + k] = bf16_from_f32((float)sum);
        }
        for (size_t c = 0; c < f->cols; c++) {
            double sum = 0;
            for (size_t i = 0; i < f->n; i++)
                sum -= f->y[c * f->n + i] * f->turn[i * f->n + from];
            down[k * f->cols + c] = bf16_from_f32((float)sum);
        }
    }
}

nib_status low_rank_find(const tensor *t, const double *h, size_t rank, uint16_t *down, uint16_t *up,
                         pool *team, const volatile sig_atomic_t *stop, nib_error *err) {
    const size_t least = t->rows < t->cols ? t->rows : t->cols;
    assert(rank > 0 && rank < least && rank <= LOW_RANK_MOST);
    const size_t n = rank + SPARE < least ? rank + SPARE : least;
    finding f = {.rows = t->rows, .cols = t->cols, .n = n, .team = team};
    f.w = mem_array(t->rows * t->cols, sizeof *f.w);
    f.b = mem_array(t->rows * n, sizeof *f.b);
    f.y = mem_array(t->cols * n, 2 * sizeof *f.y);
    f.small = mem_array(n * n, 2 * sizeof *f.small);
    nib_status status =
        f.w && f.b && f.y && f.small
            ? read_rows(&f, t, err)
            : nib_fail(err, NIB_NO_MEMORY, "no memory for the low-rank branch of %s", QUOTEZ(t->name));
    if (status == NIB_OK) {
        f.z = f.y + t->cols * n;
        f.turn = f.small + n * n;
        status = iterate(&f, h, stop, err);
    }
    if (status == NIB_OK)
        write_out(&f, rank, down, up);
    mem_free(f.w);
    mem_free(f.b);
    mem_free(f.y);
    mem_free(f.small);
    return status;
}
