/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation with a model on the terminal: its messages, what is in the answer at hand, and how that is
 * shown. A client of nibble.h.
 */
#ifndef CLI_TALK_H
#define CLI_TALK_H

#include "base/json.h"

typedef struct talk_options {
    const char *model;
    const char *template_name; /* as in talk_read_template; NULL: the model's own */
    const char *tools;         /* a JSON file of the tools that are offered; NULL: none */
    const char *system;        /* the system message; NULL: none */
    bool show_reasoning;
    bool quiet; /* nothing is printed: the answer is only kept */
} talk_options;

typedef struct talk {
    nib_chat *chat;
    nib_chat_info info;
    char *tools;      /* JSON, or NULL */
    json_t *messages; /* so far; the answer at hand is not among them */
    nib_reader *reader;
    json_t *answer; /* a message: content, reasoning_content, tool_calls */
    bool show_reasoning, quiet, dimmed;
    bool printed; /* something of the answer */
    char last;    /* character printed */
    nib_status failed;
} talk; /* zero-initialize */

/* The text of a template by NAME: chatml, llama3 or gemma, a file, or one that the file MODEL gives that name
 * to; freed with mem_free. NULL for a NAME of NULL. */
nib_status talk_read_template(const char *model, const char *name, char **text, nib_error *err);

/* Reads what the options name. NIB_UNSUPPORTED: the model has no template and none is named. */
nib_status talk_open(talk *t, const nib_engine *engine, const talk_options *o, nib_error *err);
void talk_close(talk *t); /* before the engine; safe on a zeroed struct */

/* Adds a message of ROLE. */
nib_status talk_add(talk *t, const char *role, const char *content, nib_error *err);
/* The system message becomes TEXT; NULL: there is none. */
nib_status talk_set_system(talk *t, const char *text, nib_error *err);
void talk_take_back_question(talk *t); /* the last message, if it is a user's */
bool talk_take_back_answer(talk *t);   /* all behind the last question; false: there is none */
bool talk_drop_oldest(talk *t);        /* one turn: a question and what followed; false: it is the only one */
void talk_clear(talk *t);              /* all turns; the system message stays */
/* The messages, a JSON list, to a file that appears whole or not at all, and back (in place of those that are
 * there). */
nib_status talk_save(const talk *t, const char *path, nib_error *err);
nib_status talk_load(talk *t, const char *path, nib_error *err);
/* Ids up to the answer, freed with nib_free; a reader stands ready for it. */
nib_status talk_ids(talk *t, int32_t **ids, size_t *n_ids, nib_error *err);

/* More of the answer, shown as it is understood. */
nib_status talk_push(talk *t, const char *text, size_t n, nib_error *err);
nib_status talk_end(talk *t, nib_error *err);         /* nothing follows; ends the line */
nib_status talk_keep_answer(talk *t, nib_error *err); /* becomes a message */
const json_t *talk_last(const talk *t);               /* the last message; NULL: there is none */

size_t talk_n_calls(const talk *t);             /* of the last message */
const char *talk_call(const talk *t, size_t i); /* its name */
/* What the last message's calls gave, in their order. */
nib_status talk_add_results(talk *t, const char *const *texts, size_t n, nib_error *err);

#endif
