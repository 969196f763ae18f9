/* SPDX-License-Identifier: Apache-2.0
 *
 * Speculate: guesses of the next tokens, and how many of them are worth a row of the next step. A step
 * computes several rows of a sequence in little more than the time of one where memory is the limit; a guess
 * is kept where it is what the network would have said (speculative decoding, arXiv 2211.17192), so the
 * answer stays as it was: the draw at a position is a function of seed and position alone, and a guess is
 * right when it equals that draw.
 *
 * Guesses come from the text itself (prompt lookup): what followed the last time the latest tokens stood
 * there. Whether they pay is measured, not assumed: every token shows, for free, whether the guess for it
 * would have been right, and steps tell what rows cost.
 */
#ifndef ENGINE_SPECULATE_H
#define ENGINE_SPECULATE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SPECULATE_MAX = 8,  /* guesses for one sequence and step */
    SPECULATE_ROWS = 32 /* decode rows of a step beyond which nothing is guessed */
};

/* What followed the most recent earlier place of the last tokens of TOKENS [N], MAX tokens into GUESSES,
 * round and round where there are fewer; returns MAX, or 0 where they are new. The longest ending of 4 to 2
 * tokens that stood before decides. */
int speculate_lookup(const int32_t *tokens, int n, int32_t *guesses, int max);

/* What is known of a sequence: how often a guess for its next token was right. */
typedef struct speculate_luck {
    double right;  /* moving average, 0 to 1; at first what is thought of it */
    int n_seen;    /* guesses that were looked at */
    int32_t guess; /* for the next token; -1: none */
} speculate_luck;  /* zero-initialize, but for right and guess */

#define SPECULATE_HOPE 0.5 /* where nothing is known */

/* What is thought of the next sequence once LUCK's has ended. */
double speculate_learn(double hope, const speculate_luck *luck);

/* The next token was TOKEN. */
void speculate_saw(speculate_luck *luck, int32_t token);

/* What steps of so many decode rows take. It is looked at again after a while, for machines and texts change;
 * the longer the same is found, the more rarely.
 *
 * And an account: what guesses have lost, against the same tokens without them. While it is overdrawn nothing
 * is guessed; it is paid back by what guesses win, and by a small share of the time without them. So steps
 * with guesses cost no more than that share and the few steps of the account, however wrong all else here may
 * be. What a draft takes before steps for which it guesses nothing, since it reads yet, is not in it: whether
 * reading pays is asked before it begins (guesses.c). */
typedef struct speculate_costs {
    double seconds[SPECULATE_ROWS + 1]; /* by rows; 0: not seen */
    uint32_t seen[SPECULATE_ROWS + 1];  /* the step that told so */
    uint8_t n[SPECULATE_ROWS + 1];      /* how many told so; the last dozen counts */
    uint32_t step, patience;            /* steps until what rows cost is looked at again; 0: at first */
    double lost;                        /* seconds */
    bool rows_are_free;                 /* for tests: guess whatever can be guessed */
} speculate_costs;                      /* zero-initialize */

/* A step of ROWS rows and N_GUESSES more, of which N_RIGHT were right, took SECONDS, and its guesses GUESS_S
 * before it. */
void speculate_timed(speculate_costs *costs, int rows, int n_guesses, int n_right, double seconds,
                     double guess_s);

/* The same of a step beside prefill, where a row takes ROW_S. */
void speculate_mixed(speculate_costs *costs, int rows, int n_guesses, int n_right, double row_s,
                     double guess_s);

/* Whether anything may be guessed for a step of ROWS rows: not while guesses have lost too much, and not
 * where it has to be seen again what the step takes without them. */
bool speculate_may(const speculate_costs *costs, int rows);

/* How many of N_GUESSES for a sequence are worth it in a step that has ROWS rows without them, from which
 * EXPECTED tokens are expected. GUESS_S: seconds that a guess takes before the step. */
int speculate_worth(const speculate_costs *costs, const speculate_luck *luck, int rows, double expected,
                    int n_guesses, double guess_s);

/* Seconds that so many guesses (a worth above 0) save of the next N tokens of one sequence. */
double speculate_saving(const speculate_costs *costs, const speculate_luck *luck, int rows, int worth,
                        double guess_s, int n);

/* Tokens that K guesses of such luck give beside the one that is sure. */
double speculate_gain(const speculate_luck *luck, int k);

#endif
