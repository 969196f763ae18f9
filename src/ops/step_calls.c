/* SPDX-License-Identifier: Apache-2.0
 *
 * A step: its batch is checked and known to the backend until it was waited for.
 */
#include "ops/ops.h"

#undef NDEBUG /* a few comparisons per sequence */
#include <assert.h>

bool step_begin(backend *be, const batch *b, uint64_t key) {
    int32_t row = 0;
    assert(!be->batch && b->n_rows > 0);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const batch_seq *s = &b->seqs[i];
        assert(s->row == row && s->n_rows > 0 && s->pos >= 0);
        assert((s->pos + s->n_rows - 1) / KV_PAGE_TOKENS < s->n_pages);
        row += s->n_rows;
    }
    assert(row == b->n_rows);
    for (int32_t i = 0; i < b->n_out; i++)
        assert(b->out_rows[i] >= 0 && b->out_rows[i] < b->n_rows);
    be->batch = b;
    return be->step_begin && be->step_begin(be, b, key);
}

void step_submit(backend *be) {
    assert(be->batch);
    if (be->step_submit)
        be->step_submit(be);
}

nib_status step_wait(backend *be, nib_error *err) {
    assert(be->batch);
    nib_status status = be->step_wait ? be->step_wait(be, err) : NIB_OK;
    be->batch = NULL;
    return status;
}

nib_status step_finish(backend *be, nib_error *err) {
    step_submit(be);
    return step_wait(be, err);
}
