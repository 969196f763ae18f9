/* SPDX-License-Identifier: Apache-2.0
 *
 * Dense: the FP64 linear algebra that GPTQ needs, on row-major matrices in memory, on all cores.
 *
 * Every element is summed up in one order, whatever the number of threads and the shape of the tiles: the
 * same input gives the same bits. It is not BLAS: OpenBLAS adds up in an order that depends on its threads,
 * starts them as the library is loaded, and ends the process when the system denies one.
 * Callers: gptq; of the clones tune's gram, too.
 *
 * DENSE_CLONES: the compiler makes the function once more for wider vectors, and the loader takes what the
 * processor has: of arch=haswell that CPU alone, others with AVX2 run the default. Sums keep their order;
 * dense.c and tune's gram.c are compiled so that a product and its sum may be rounded once, where the
 * processor can: the same bits on processors of one kind.
 */
#ifndef QUANT_DENSE_H
#define QUANT_DENSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"

/* Not under sanitizers: clang's are not up yet when the loader asks, and the stack frames of gcc's are
 * aligned for no register of 64 bytes. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define DENSE_ONE_CLONE
#endif
#endif
#if defined __x86_64__ && defined __gnu_linux__ && !defined DENSE_ONE_CLONE &&                               \
    !defined __SANITIZE_THREAD__ && !defined __SANITIZE_ADDRESS__
#define DENSE_CLONES __attribute__((target_clones("default", "arch=haswell", "avx512f")))
#else
#define DENSE_CLONES
#endif
#define DENSE_INLINE static inline __attribute__((always_inline)) /* into a clone, to be as wide */

bool dense_is_wide(void); /* there are 32 registers of 64 bytes, and DENSE_CLONES for them */

/* A matrix element (i, p) at at[i * row + p * col]. */
typedef struct dense_view {
    const double *at;
    size_t row, col;
} dense_view;

/* C [m, n] -= A [m, k] B [k, n]; rows of C and of B are contiguous, C_ROW and B_ROW elements apart. Each
 * element of C takes one sum over k, in ascending order. On the calling thread. */
void dense_subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row, size_t m, size_t n,
                    size_t k);

/* H [n, n], symmetric and positive definite, of which the upper triangle is read, becomes the upper U with
 * H^-1 = U^T U; zeros below. ROOM [DENSE_ROOM(n)]. False: H is not positive definite, and lost. */
#define DENSE_BLOCK   64
#define DENSE_SPARE   8
#define DENSE_ROOM(n) (DENSE_BLOCK * ((n) + DENSE_SPARE))
bool dense_factor(double *h, size_t n, double *room, pool *team);

#endif
