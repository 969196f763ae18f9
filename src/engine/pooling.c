/* SPDX-License-Identifier: Apache-2.0
 *
 * See pooling.h.
 */
#include "engine/pooling.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"

nib_status pooling_open(pooling *p, nib_pooling how, size_t dim, nib_error *err) {
    *p = (pooling){.how = how, .dim = dim};
    if (how == NIB_POOLING_NONE)
        return NIB_OK;
    p->vector = mem_array(dim, sizeof *p->vector);
    if (how == NIB_POOLING_MEAN)
        p->sums = mem_array(dim, sizeof *p->sums);
    return p->vector && (p->sums || how != NIB_POOLING_MEAN)
               ? NIB_OK
               : nib_fail(err, NIB_NO_MEMORY, "no memory for a vector of %zu numbers", dim);
}

void pooling_close(pooling *p) {
    mem_free(p->sums);
    mem_free(p->vector);
    *p = (pooling){0};
}

void pooling_add(pooling *p, const float *rows, int pos, int n_rows) {
    if (pos + n_rows <= p->n_rows)
        return;
    assert(p->how == NIB_POOLING_LAST || pos <= p->n_rows);
    for (int r = p->n_rows > pos ? p->n_rows - pos : 0; p->sums && r < n_rows; r++)
        for (size_t i = 0; i < p->dim; i++)
            p->sums[i] += (double)rows[(size_t)r * p->dim + i];
    if (p->how == NIB_POOLING_LAST)
        memcpy(p->vector, rows + (size_t)(n_rows - 1) * p->dim, p->dim * sizeof *p->vector);
    p->n_rows = pos + n_rows;
}

bool pooling_end(pooling *p) {
    bool good = true;
    for (size_t i = 0; i < p->dim; i++) {
        if (p->sums)
            p->vector[i] = (float)(p->sums[i] / p->n_rows);
        good = good && isfinite(p->vector[i]);
    }
    return good;
}
