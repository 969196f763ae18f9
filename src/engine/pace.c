/* SPDX-License-Identifier: Apache-2.0
 *
 * Moving averages over the last dozen steps. See pace.h.
 */
#include "engine/pace.h"

#include <stdbool.h>

enum {
    UNKNOWN = 16,   /* rows, until a step of each kind was seen */
    LOOK_AGAIN = 16 /* mixed steps, then one that only decodes: who decodes beside a long prompt changes */
};

#define WEIGHT (1.0 / 8)

/* A change of a third or more is a new state of affairs, not noise to be averaged away. */
static void follow(double *average, double value) {
    bool is_new = *average == 0 || value > 1.33 * *average || value < *average / 1.33;
    *average += (*average == 0 ? 1 : is_new ? 0.5 : WEIGHT) * (value - *average);
}

void pace_saw(pace *p, int decode_rows, int prefill_rows, double seconds) {
    p->n_decoding = decode_rows;
    if (prefill_rows == 0) {
        follow(&p->decode_s, seconds);
        p->n_mixed = 0;
        return;
    }
    p->n_mixed += decode_rows > 0;
    /* A step may be over faster than those that only decoded, if the machine has become quieter. */
    double added = decode_rows > 0 ? seconds - p->decode_s : seconds;
    if (decode_rows == 0 || p->decode_s > 0)
        follow(&p->row_s, (added > 0 ? added : seconds / 8) / prefill_rows);
}

/* Times as long as without prefill. */
static double factor(const pace *p, int n_requests) {
    const double fair = p->n_decoding > 0 ? (double)n_requests / p->n_decoding : 0;
    return fair < PACE_LEAST ? PACE_LEAST : fair > PACE_MOST ? PACE_MOST : fair;
}

int pace_budget(const pace *p, int n_requests, int max_rows) {
    double rows = UNKNOWN;
    if (p->n_mixed >= (p->decode_s > 0 ? LOOK_AGAIN : 1))
        return PACE_NONE;
    if (p->decode_s > 0 && p->row_s > 0)
        rows = (factor(p, n_requests) - 1) * p->decode_s / p->row_s;
    return rows < 1 ? 1 : rows > max_rows ? max_rows : (int)rows;
}
