/* SPDX-License-Identifier: Apache-2.0
 *
 * One answer of a model: submitted, streamed to standard output, bounded, and looked at for circles. In a
 * chat the conversation around it is cli/talk.h's. A client of nibble.h.
 */
#ifndef CLI_REPLY_H
#define CLI_REPLY_H

#include "cli/lines.h"
#include "cli/repeats.h"
#include "cli/shapes.h"
#include "cli/talk.h"

/* Tokens of an answer where no flag says how many; with reasoning where the model's template knows it. */
#define REPLY_TOKENS           2048
#define REPLY_TOKENS_REASONING 8192

typedef struct reply_options {
    const char *model;    /* as the user named it */
    int max_tokens;       /* 0: the default */
    int reasoning_budget; /* tokens; 0: no bound */
    bool ignore_eos, circles /* may go on */, verbose;
    bool json;          /* keep the text instead of printing it */
    const char **stops; /* [n_stops] texts that end an answer */
    size_t n_stops;
    nib_sampling sampling;
    nib_options compute;
} reply_options;

typedef struct reply {
    const reply_options *options;
    nib_engine *engine;
    nib_info info;
    shapes shapes;
    uint64_t seed; /* of the next answer */
    bool chat;
    talk talk;    /* of a chat */
    lines *lines; /* what is typed, results of calls among it; NULL: not open */

    /* The answer at hand. */
    size_t bytes; /* of its text */
    char last;    /* byte of it */
    char *text;   /* json without a chat */
    size_t text_capacity;
    int32_t *ids; /* [n_ids] the prompt; in a chat with what was generated behind it */
    size_t n_ids, ids_capacity;
    int n_reasoned, n_generated;
    bool ended;       /* the request at hand */
    bool over_budget; /* the reasoning was ended */
    repeats repeats;
    int circle;      /* tokens of the circle that ended it; 0: none did */
    nib_event event; /* END of the last request; its texts are gone */
} reply;             /* zero-initialize */

/* The continuation of TEXT as it is. Ctrl-C: NIB_CANCELLED. */
nib_status reply_plain(reply *a, const char *text, nib_error *err);
/* The answer to TEXT as the next turn of the talk, with the calls in it. A turn that failed or was stopped
 * before a word is taken back. TEXT NULL: to the last question, which is there. */
nib_status reply_turn(reply *a, const char *text, nib_error *err);
/* What came last, as a JSON object on standard output. */
nib_status reply_print_json(const reply *a, nib_error *err);
void reply_close(reply *a); /* with the engine */

#endif
