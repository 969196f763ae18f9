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
    int threads;
} ppl_run;

static nib_status score(void *context, const float *const *logits, int n_rows, const int32_t *targets,
                        size_t row, nib_error *err) {
    ppl_run *r = context;
#pragma omp parallel for schedule(static) num_threads(r->threads)
    for (int i = 0; i < n_rows; i++) {
        const float *x = logits[0] + (size_t)i * r->vocab;
        softmax_row s = softmax_of(x, r->vocab);
        r->nll[row + (size_t)i] = -softmax_log_prob(x, &s, targets[i]);
    }
    return scores_check(r->nll + row, (size_t)n_rows, row, err);
}

nib_status eval_ppl(model *m, const eval_text *text, const eval_options *options, eval_ppl_result *out,
                    nib_error *err) {
    *out = (eval_ppl_result){.n_scored = windows_scored(text)};
    ppl_run r = {.nll = mem_array(out->n_scored, sizeof(double)),
                 .vocab = (size_t)model_hparams(m)->vocab,
                 .threads = windows_threads(options)};
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
