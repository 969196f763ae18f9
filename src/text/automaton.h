/* SPDX-License-Identifier: Apache-2.0
 *
 * Automaton: runs a grammar's program over bytes. A state is a set of threads, each an instruction that waits
 * for a byte and a stack of frames (calls and counted repeats it is in). Frames and states are kept once and
 * have numbers, and each state remembers where it goes by each class of bytes: what was computed once is a
 * look-up afterwards, across all who share the automaton.
 *
 * Memory only grows: who uses it asks automaton_is_full now and then, opens a fresh one and takes its states
 * along (automaton_import). Not thread-safe. Private to the text room.
 */
#ifndef TEXT_AUTOMATON_H
#define TEXT_AUTOMATON_H

#include "text/grammar.h"

#define AUTOMATON_DEAD        0u /* the state that nothing leads on from and that is no end */
#define AUTOMATON_UNKNOWN     UINT32_MAX
#define AUTOMATON_MAX_THREADS 4096u
#define AUTOMATON_FULL_BYTES  ((size_t)32 << 20)  /* automaton_is_full from here on */
#define AUTOMATON_MAX_BYTES   ((size_t)160 << 20) /* steps fail from here on */

typedef struct automaton_frame {
    uint32_t pc, count; /* an OP_CALL, an OP_COUNT with its finished turns, an OP_LIMIT with its ticks */
    uint32_t parent, depth;
    uint32_t limit; /* the nearest frame of an OP_LIMIT, this or below; 0: none */
} automaton_frame;

typedef struct automaton_state {
    uint32_t threads, n_threads; /* in threads */
    bool can_end;
    /* kept here for mask.c */
    int8_t finishable, universal, runs[2]; /* -1: not known */
    uint32_t plain, mask;
} automaton_state;

typedef struct automaton_thread {
    uint32_t frame, pc;
} automaton_thread;

typedef struct automaton {
    grammar *g;
    automaton_frame *frames;
    size_t n_frames, frames_capacity;
    automaton_state *states;
    size_t n_states, states_capacity;
    uint32_t *next; /* [n_states, n_classes] */
    automaton_thread *threads;
    size_t n_threads, threads_capacity;
    uint32_t *frame_slots, *state_slots; /* hash tables of numbers + 1 */
    size_t frame_mask, state_mask;

    /* scratch of one step */
    automaton_thread *work, *waiting, *seen;
    uint32_t *seen_stamp, stamp;
    size_t n_work, work_capacity, n_waiting, waiting_capacity, seen_mask, n_seen;

    nib_status status; /* the first failure; all steps are dead afterwards */
    nib_error err;
} automaton;

nib_status automaton_open(automaton **out, grammar *g, nib_error *err); /* shares G */
void automaton_close(automaton *a);                                     /* NULL is fine */

uint32_t automaton_start(automaton *a);
/* Computes where STATE goes by the class; automaton_step looks it up. */
uint32_t automaton_go(automaton *a, uint32_t state, unsigned class);
bool automaton_is_full(const automaton *a);
/* The state of A that is what STATE is in FROM (an automaton of the same grammar). */
uint32_t automaton_import(automaton *a, const automaton *from, uint32_t state);

/* The state after BYTE; AUTOMATON_DEAD when the text cannot go on so, or after a failure (a->status). */
static inline uint32_t automaton_step(automaton *a, uint32_t state, unsigned char byte) {
    const unsigned class = a->g->classes[byte];
    const uint32_t to = a->next[(size_t)state * a->g->n_classes + class];
    return to != AUTOMATON_UNKNOWN ? to : automaton_go(a, state, class);
}

#endif
