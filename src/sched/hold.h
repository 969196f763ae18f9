/* SPDX-License-Identifier: Apache-2.0
 *
 * Hold: which pages a sequence holds, of every cache group. Private to the room.
 *
 * FULL groups hold all positions, WINDOW groups those that the next row still sees, STATE groups one slot.
 * What must be copied before the next step goes to the step's copies.
 */
#ifndef SCHED_HOLD_H
#define SCHED_HOLD_H

#include "sched/sched_inside.h"

/* Q, which waits, gets what its first rows need, sharing remembered pages; n_computed is what they hold.
 * False, and nothing changed, where there are too few pages. */
bool hold_start(sched *s, seq *q);
bool hold_can_start(sched *s, const seq *q);

/* Q, which waits, shares the pages of FROM as far as their tokens are alike. False where that is nothing. */
bool hold_fork(sched *s, seq *q, const seq *from);

int32_t hold_room(const sched *s, const seq *q); /* positions that hold_reach can reach */
/* Q holds pages of all positions below N_POSITIONS, and those from n_computed on are its alone to write. */
void hold_reach(sched *s, seq *q, int32_t n_positions);

/* n_computed has grown: full pages are named, those that left a window given back, and those beyond the
 * tokens, which guesses needed. */
void hold_computed(sched *s, seq *q);

void hold_give(sched *s, seq *q); /* everything; n_computed = 0 */

#endif
