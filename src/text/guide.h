/* SPDX-License-Identifier: Apache-2.0
 *
 * Guide: holds one answer to a shape, token by token. A plan is the shape read and compiled, once for all
 * requests that ask for it; what was found out about it on the way (states, masks) is shared among them.
 *
 *     guide_plan_open(&plan, GUIDE_JSON_SCHEMA, text, before, words, t, err);
 *     guide_open(&guide, plan, err);
 *     while (...) { mask = guide_mask(guide); token = sample(logits, mask); guide_accept(guide, token); }
 *
 * One guide belongs to one thread at a time; guides of one plan may run on many.
 */
#ifndef TEXT_GUIDE_H
#define TEXT_GUIDE_H

#include "text/grammar.h"
#include "text/trie.h"

typedef enum guide_kind {
    GUIDE_JSON_OBJECT, /* any JSON object; no text */
    GUIDE_JSON_SCHEMA,
    GUIDE_REGEX,  /* of the whole answer */
    GUIDE_CHOICE, /* a JSON list of strings, one of which is the answer */
    GUIDE_GBNF,
    GUIDE_CALL /* of tools (call_shape.h) */
} guide_kind;

#define GUIDE_MAX_ROLLBACK 256 /* tokens that can always be taken back */

typedef struct guide_plan guide_plan;
typedef struct guide guide;

/* What may come before the shape, a model's reasoning: any text up to the first END, and at most two line
 * ends more. It must come; or, with a BEGIN, it comes when the text begins with that. No END: nothing. */
typedef struct guide_preamble {
    strview begin, end;
} guide_preamble;

/* Reads TEXT. With reasoning, anything may come BEFORE up to the end of that. What cannot be read or held to
 * is NIB_UNSUPPORTED, or NIB_BAD_ARGUMENT when it is no JSON or no list of choices, with a sentence. Shares
 * WORDS; T must live longer than the plan. */
nib_status guide_plan_open(guide_plan **out, guide_kind kind, strview text, guide_preamble before,
                           trie *words, const tokenizer *t, nib_error *err);
guide_plan *guide_plan_share(guide_plan *p);
void guide_plan_release(guide_plan *p); /* NULL is fine */

nib_status guide_open(guide **out, guide_plan *plan, nib_error *err); /* shares PLAN */
/* Another one that stands where G stands. */
nib_status guide_clone(guide **out, const guide *g, nib_error *err);
void guide_close(guide *g); /* NULL is fine */

/* Bits of the tokens that may come next, [trie.n_words]; lives until the next call on G. NULL after a
 * failure, of which guide_failure tells. No bit is set once the answer has ended. */
const uint32_t *guide_mask(guide *g);
/* The same into BITS [n_words], one for each logit: a vocabulary may have more words than logits, or fewer.
 */
nib_status guide_fill(guide *g, uint32_t *bits, size_t n_words, nib_error *err);
/* Takes TOKEN; false, and nothing changes, when the shape does not allow it (or after a failure). */
bool guide_accept(guide *g, int32_t token);
/* Takes back the last N tokens; false, and nothing changes, when there are not so many or they are more than
 * GUIDE_MAX_ROLLBACK ago. */
bool guide_rollback(guide *g, size_t n);
bool guide_can_end(const guide *g);  /* the answer is complete as it stands */
bool guide_finished(const guide *g); /* and nothing but its end can follow, or the end has come */
nib_status guide_failure(const guide *g, nib_error *err); /* NIB_OK: none */

#endif
