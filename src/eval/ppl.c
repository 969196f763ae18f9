/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity. See eval.h.
 */
#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "eval/scores.h"
#include "eval/softmax.h"
#include "eval/windows.h"

typedef struct ppl_run {
    double *nll; /* [n_scored] */
    size_t vocab;
} ppl_run;

static void score_range(void *arg, int thread, size_t begin, size_t end) {
    (void)thread;
    const windows_rows *rows = arg;
    ppl_run *r = rows->context;
    for (size_t i = begin; i < end; i++) {
        const float *x = rows->logits[0] + i * r->vocab;
        softmax_row s = softmax_of(x, r->vocab);
        r->nll[rows->first + i] = -softmax_log_prob(x, &s, rows->targets[i]);
    }
}

static nib_status score(windows_rows *rows, nib_error *err) {
    ppl_run *r = rows->context;
    pool_for(rows->pool, (size_t)rows->n, 1, score_range, rows);
    return scores_check(r->nll + rows->first, (size_t)rows->n, rows->first, err);
}

nib_status eval_ppl(model *m, const eval_text *text, const eval_options *options, eval_ppl_result *out,
                    nib_error *err) {
    *out = (eval_ppl_result){.n_scored = windows_scored(text)};
    ppl_run r = {.nll = mem_array(out->n_scored, sizeof(double)), .vocab = (size_t)model_hparams(m)->vocab};
    if (!r.nll)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the scores of %zu tokens", out->n_scored);
    double start = clock_seconds();
    nib_status status = windows_run(&m, 1, text, options, "perplexity", score, &r, err);
    if (status == NIB_OK)
        scores_ppl(r.nll, out);
    out->seconds = clock_seconds() - start;
    mem_free(r.nll);
    return status;
}
