/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompt lookup, and when it pays. See speculate.h.
 */
#include "engine/speculate.h"

enum {
    LONGEST = 4, /* tokens that must have stood before */
    SHORTEST = 2,
    LOOK_BACK = 16384, /* tokens; a longer text is searched in its end */
    LOOK_AGAIN = 512,  /* steps after which what rows cost is measured anew */
    SURE = 8           /* guesses that luck is judged by */
};

#define WEIGHT  (1.0 / 16)
#define HOPEFUL 0.5 /* of a sequence that nothing is known of */
#define MARGIN  1.1 /* what must be won: costs are measured with noise */

int speculate_lookup(const int32_t *tokens, int n, int32_t *guesses, int max) {
    const int first = n > LOOK_BACK ? n - LOOK_BACK : 0;
    int best = 0, found = -1;
    for (int end = n - 1; end > first && best < LONGEST; end--) { /* the ending before tokens[end] */
        if (tokens[end - 1] != tokens[n - 1])
            continue;
        int length = 1;
        while (length < LONGEST && end - 1 - length >= first &&
               tokens[end - 1 - length] == tokens[n - 1 - length])
            length++;
        if (length >= SHORTEST && length > best) {
            best = length;
            found = end;
        }
    }
    if (found < 0)
        return 0;
    const int period = n - found; /* a text that repeats itself goes on so */
    for (int i = 0; i < max; i++)
        guesses[i] = i < period ? tokens[found + i] : guesses[i - period];
    return max;
}

void speculate_saw(speculate_luck *luck, int32_t token) {
    if (luck->guess < 0)
        return;
    luck->n_seen++;
    const double weight = luck->n_seen < SURE ? 1.0 / (luck->n_seen + 1) : WEIGHT;
    if (luck->n_seen == 1)
        luck->right = HOPEFUL;
    luck->right += weight * ((luck->guess == token) - luck->right);
    luck->guess = -1;
}

static double chance(const speculate_luck *luck) {
    return luck->n_seen == 0 ? HOPEFUL : luck->right;
}

double speculate_gain(const speculate_luck *luck, int k) {
    double gain = 0, all_right = 1;
    for (int i = 0; i < k; i++)
        gain += all_right *= chance(luck);
    return gain;
}

void speculate_timed(speculate_costs *c, int rows, double seconds) {
    c->step++;
    if (rows < 1 || rows > SPECULATE_ROWS)
        return;
    double *known = &c->seconds[rows];
    /* The first after a while stands alone: the machine, or the texts' length, may have changed. */
    *known =
        *known == 0 || c->step - c->seen[rows] > LOOK_AGAIN ? seconds : *known + WEIGHT * (seconds - *known);
    c->seen[rows] = c->step;
}

/* What ROWS rows are thought to take: as measured, between two measured as on the line, beyond the last as
 * that: so it will be tried, and known. 0: nothing is known. */
static double cost_of(const speculate_costs *c, int rows) {
    int below = rows, above = rows;
    while (below > 0 && (c->seconds[below] == 0 || c->step - c->seen[below] > LOOK_AGAIN))
        below--;
    while (above <= SPECULATE_ROWS && (c->seconds[above] == 0 || c->step - c->seen[above] > LOOK_AGAIN))
        above++;
    if (below == 0)
        return 0;
    if (above > SPECULATE_ROWS || above == below)
        return c->seconds[below];
    const double slope = (c->seconds[above] - c->seconds[below]) / (above - below);
    return c->seconds[below] + slope * (rows - below);
}

int speculate_worth(const speculate_costs *c, const speculate_luck *luck, int rows, double expected,
                    int n_guesses, double guess_s) {
    if (c->rows_are_free)
        return n_guesses;
    const double cost = rows <= SPECULATE_ROWS ? cost_of(c, rows) : 0;
    int best = 0;
    double best_rate = expected / cost * MARGIN;
    if (cost == 0)
        return 0; /* first see what a step takes without */
    for (int k = 1; k <= n_guesses && rows + k <= SPECULATE_ROWS; k++) {
        const double rate = (expected + speculate_gain(luck, k)) / (cost_of(c, rows + k) + k * guess_s);
        if (rate > best_rate) {
            best_rate = rate;
            best = k;
        }
    }
    return best;
}
