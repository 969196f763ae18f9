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

/* What guesses have lost, in seconds; of that, by a draft's reading. */
typedef struct speculate_account {
    double lost, invested;
} speculate_account;

/* What is known of a sequence: how often a guess for its next token was right. */
typedef struct speculate_luck {
    double right;              /* moving average, 0 to 1; at first what is thought of it */
    int n_seen;                /* guesses that were looked at */
    int32_t guess;             /* for the next token; -1: none */
    speculate_account account; /* how much later it came for guesses, its own and others' */
} speculate_luck;              /* zero-initialize, but for right and guess */

#define SPECULATE_HOPE 0.5 /* where nothing is known */

/* What is thought of the next sequence once LUCK's has ended. */
double speculate_learn(double hope, const speculate_luck *luck);

/* The next token was TOKEN. */
void speculate_saw(speculate_luck *luck, int32_t token);

/* What steps of so many decode rows take. It is looked at again after a while, for machines and texts change;
 * the longer the same is found, the more rarely.
 *
 * And accounts: what guesses have lost, against the same tokens without them, one for all and one for each
 * sequence (its luck), as one may be slowed by what is guessed for others. No step may put more at risk than
 * the worst of them has left, which is a step's time and what was won lately; they are paid back by what
 * guesses win, and by a small share of the time without them. So nobody is slowed by more than that share and
 * a step, however wrong all else here may be; but what a step takes beyond twice what was expected of it is
 * on no account.
 *
 * A draft's reading of a text, while which it guesses nothing, may overdraw them. It begins where those of
 * all and of everybody else are in credit, and guesses go on as if it were not there: so it keeps nobody
 * waiting a second time before that was won back. */
typedef struct speculate_costs {
    double seconds[SPECULATE_ROWS + 1]; /* by rows; 0: not seen */
    uint32_t seen[SPECULATE_ROWS + 1];  /* the step that told so */
    uint8_t n[SPECULATE_ROWS + 1];      /* how many told so; the last dozen counts */
    uint32_t step, patience;            /* steps until what rows cost is looked at again; 0: at first */
    speculate_account account;          /* of all */
    bool rows_are_free;                 /* for tests: guess whatever can be guessed */
} speculate_costs;                      /* zero-initialize */

/* What a step's guesses cost everybody, in seconds, and how much a right one gave the sequence whose it was.
 */
typedef struct speculate_bill {
    double extra, gain;
} speculate_bill;

/* A step of ROWS rows and N_GUESSES more, of which N_RIGHT were right, took SECONDS, and its guesses GUESS_S
 * before it, also where nothing came of it. */
speculate_bill speculate_timed(speculate_costs *costs, int rows, int n_guesses, int n_right, double seconds,
                               double guess_s);

/* The same of a step beside prefill, where a row takes ROW_S. */
speculate_bill speculate_mixed(speculate_costs *costs, int rows, int n_guesses, int n_right, double row_s,
                               double guess_s);

/* A sequence of that step, of whose guesses N_RIGHT were right. */
void speculate_charge(speculate_luck *luck, speculate_bill bill, int n_right);

/* The next step, while guesses are put into it. */
typedef struct speculate_plan {
    int rows;        /* with guesses */
    double expected; /* tokens of it */
    double most;     /* seconds that it may take; 0: nothing may be guessed */
} speculate_plan;

/* What guesses have to make good to whom the account is. */
double speculate_owed(const speculate_account *account);

/* A step of ROWS rows before anything is guessed; MOST_OWED: to any of its sequences. Nothing may be guessed
 * while an account is overdrawn, nor where it has to be seen again what the step takes without. */
speculate_plan speculate_begin(const speculate_costs *costs, int rows, double most_owed);

/* How many of N_GUESSES for a sequence are worth it in PLAN. GUESS_S: seconds that a guess takes before the
 * step. */
int speculate_worth(const speculate_costs *costs, const speculate_plan *plan, const speculate_luck *luck,
                    int n_guesses, double guess_s);
void speculate_put(speculate_plan *plan, const speculate_luck *luck, int n_guesses);

/* A draft took SECONDS to read, for which it gave nothing yet; and whether it may begin with a text. */
void speculate_invest(speculate_account *account, double seconds);
bool speculate_may_invest(const speculate_account *account);

/* Seconds that so many guesses (a worth above 0) save of the next N tokens of one sequence. */
double speculate_saving(const speculate_costs *costs, const speculate_luck *luck, int rows, int worth,
                        double guess_s, int n);

#endif
