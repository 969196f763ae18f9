/* SPDX-License-Identifier: Apache-2.0
 *
 * Moving averages over the last dozen steps. See pace.h.
 */
#include "engine/pace.h"

enum { UNKNOWN = 16 }; /* rows, until a step of each kind was seen */

#define WEIGHT (1.0 / 8)

static void follow(double *average, double value) {
    *average = *average == 0 ? value : *average + WEIGHT * (value - *average);
}

void pace_saw(pace *p, int decode_rows, int prefill_rows, double seconds) {
    if (prefill_rows == 0) {
        follow(&p->decode_s, seconds);
        return;
    }
    /* A step may be over faster than those that only decoded, if the machine has become quieter. */
    double added = decode_rows > 0 ? seconds - p->decode_s : seconds;
    if (decode_rows == 0 || p->decode_s > 0)
        follow(&p->row_s, (added > 0 ? added : seconds / 8) / prefill_rows);
}

int pace_budget(const pace *p, int max_rows) {
    double rows = UNKNOWN;
    if (p->decode_s > 0 && p->row_s > 0)
        rows = (PACE_FACTOR - 1) * p->decode_s / p->row_s;
    return rows < 1 ? 1 : rows > max_rows ? max_rows : (int)rows;
}
