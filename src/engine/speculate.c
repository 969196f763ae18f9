/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompt lookup, and when it pays. See speculate.h.
 */
#include "engine/speculate.h"

#include <math.h>

enum {
    LONGEST = 4, /* tokens that must have stood before */
    SHORTEST = 2,
    LOOK_BACK = 16384, /* tokens; a longer text is searched in its end */
    LOOK_AGAIN = 512,  /* steps after which what rows cost is measured anew, at first */
    LONGEST_PATIENCE = 1 << 15,
    WITHOUT_AGAIN = 64, /* steps with guesses, then one that shows what it takes without */
    DOZEN = 16,         /* steps that tell what rows cost */
    SURE = 8            /* guesses that luck is judged by */
};

#define WEIGHT (1.0 / 16)
#define MARGIN 0.1  /* tokens that must be won beyond what they cost: costs are measured with noise */
#define ALIKE  1.3  /* times as much, or as little, is still what it was */
#define FAR    2.0  /* times as much is not what the step itself took */
#define CREDIT 1.0  /* steps' time that guesses may have lost */
#define WON    2.0  /* steps' time that they may have won; what was won before is not played away */
#define SHARE  0.01 /* of the time without guesses that they are given */

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
    luck->right += weight * ((luck->guess == token) - luck->right);
    luck->guess = -1;
}

double speculate_learn(double hope, const speculate_luck *luck) {
    if (luck->n_seen >= SURE)
        return hope + (luck->right - hope) / 8;
    return hope + (SPECULATE_HOPE - hope) / 64; /* what is never tried is not given up for ever */
}

/* Tokens that K guesses of such luck give beside the one that is sure. */
static double gain_of(const speculate_luck *luck, int k) {
    double gain = 0, all_right = 1;
    for (int i = 0; i < k; i++)
        gain += all_right *= luck->right;
    return gain;
}

static uint32_t patience(const speculate_costs *c) {
    return c->patience ? c->patience : LOOK_AGAIN;
}

static bool is_known(const speculate_costs *c, int rows) {
    return c->seconds[rows] != 0 && c->step - c->seen[rows] <= patience(c);
}

/* What ROWS rows are thought to take: as measured, between two measured as on the line, beyond the last as on
 * the line from the one before it. 0: nothing is known. */
static double cost_of(const speculate_costs *c, int rows) {
    int below = rows, above = rows;
    while (below > 0 && !is_known(c, below))
        below--;
    while (above <= SPECULATE_ROWS && !is_known(c, above))
        above++;
    if (below == 0)
        return 0;
    if (above > SPECULATE_ROWS) {
        above = below--;
        while (below > 0 && !is_known(c, below))
            below--;
        if (below == 0)
            return c->seconds[above];
    }
    if (above == below)
        return c->seconds[below];
    const double slope = (c->seconds[above] - c->seconds[below]) / (above - below);
    return c->seconds[below] + (slope > 0 ? slope : 0) * (rows - below);
}

static void note(speculate_costs *c, int rows, double seconds) {
    double *known = &c->seconds[rows];
    if (is_known(c, rows)) { /* a step in which the machine did something else counts for little */
        c->n[rows] += c->n[rows] < DOZEN;
        *known += ((seconds < FAR * *known ? seconds : FAR * *known) - *known) / c->n[rows];
    } else { /* stands alone: the machine, or the texts' length, may have changed */
        const bool alike = *known > 0 && seconds < ALIKE * *known && *known < ALIKE * seconds;
        const uint32_t longer = patience(c) < LONGEST_PATIENCE ? 2 * patience(c) : LONGEST_PATIENCE;
        c->patience = alike ? longer : *known > 0 ? LOOK_AGAIN : c->patience;
        *known = seconds;
        c->n[rows] = 1;
    }
    c->seen[rows] = c->step;
}

static void charge(speculate_account *a, double seconds, double step) {
    a->lost = fmax(a->lost + seconds, -WON * step);
    a->invested = fmin(a->invested, fmax(a->lost, 0));
}

double speculate_owed(const speculate_account *a) {
    return a->lost - a->invested;
}

static speculate_bill settle(speculate_costs *c, int rows, int n_right, double extra, double without) {
    charge(&c->account, extra - without * n_right / rows, without);
    return (speculate_bill){extra, without};
}

void speculate_charge(speculate_luck *luck, speculate_bill bill, int n_right) {
    if (bill.gain > 0) /* else it is not known what the step cost */
        charge(&luck->account, bill.extra - bill.gain * n_right, bill.gain);
}

speculate_bill speculate_mixed(speculate_costs *c, int rows, int n_guesses, int n_right, double row_s,
                               double guess_s) {
    const double without = rows >= 1 && rows <= SPECULATE_ROWS ? cost_of(c, rows) : 0;
    if (without == 0)
        return (speculate_bill){0, 0};
    return settle(c, rows, n_right, n_guesses * row_s + guess_s, without);
}

speculate_bill speculate_timed(speculate_costs *c, int rows, int n_guesses, int n_right, double seconds,
                               double guess_s) {
    speculate_bill bill = {0, 0};
    c->step++;
    if (rows < 1 || rows + n_guesses > SPECULATE_ROWS)
        return bill;
    const double without = cost_of(c, rows), most = FAR * cost_of(c, rows + n_guesses);
    if (n_guesses == 0)
        bill = settle(c, rows, 0, guess_s - SHARE * seconds, seconds);
    else if (without > 0)
        bill = settle(c, rows, n_right, fmin(seconds, most) + guess_s - without, without);
    note(c, rows + n_guesses, seconds);
    return bill;
}

void speculate_invest(speculate_account *a, double seconds) {
    a->lost += seconds;
    a->invested += seconds;
}

bool speculate_may_invest(const speculate_account *a) {
    return a->lost <= 0;
}

speculate_plan speculate_begin(const speculate_costs *c, int rows, double most_owed) {
    speculate_plan p = {.rows = rows, .expected = rows};
    if (c->rows_are_free)
        p.most = INFINITY;
    if (c->rows_are_free || rows < 1 || rows > SPECULATE_ROWS || !is_known(c, rows) ||
        c->step - c->seen[rows] > WITHOUT_AGAIN)
        return p;
    const double left = CREDIT * c->seconds[rows] - fmax(speculate_owed(&c->account), most_owed);
    if (left > 0)
        p.most = c->seconds[rows] + left;
    return p;
}

/* Whether the steps that were seen tell nothing of what a row more costs. */
static bool knows_one(const speculate_costs *c) {
    int n_known = 0;
    for (int i = 1; i <= SPECULATE_ROWS && n_known < 2; i++)
        n_known += is_known(c, i);
    return n_known < 2;
}

int speculate_worth(const speculate_costs *c, const speculate_plan *p, const speculate_luck *luck,
                    int n_guesses, double guess_s) {
    if (c->rows_are_free)
        return n_guesses;
    if (p->most == 0)
        return 0;
    const int most = n_guesses > 1 && knows_one(c) ? 1 : n_guesses;
    double best_rate = p->expected / cost_of(c, p->rows);
    int best = 0;
    for (int k = 1; k <= most && p->rows + k <= SPECULATE_ROWS; k++) {
        const double seconds = cost_of(c, p->rows + k) + k * guess_s;
        const double rate = (p->expected + gain_of(luck, k) - MARGIN) / seconds;
        if (seconds > p->most)
            break;
        if (rate > best_rate) {
            best_rate = rate;
            best = k;
        }
    }
    return best;
}

void speculate_put(speculate_plan *p, const speculate_luck *luck, int n_guesses) {
    p->rows += n_guesses;
    p->expected += gain_of(luck, n_guesses);
}

double speculate_saving(const speculate_costs *c, const speculate_luck *luck, int rows, int worth,
                        double guess_s, int n) {
    const double step = cost_of(c, rows + worth) + worth * guess_s;
    return n * (cost_of(c, rows) - step / (1 + gain_of(luck, worth)));
}
