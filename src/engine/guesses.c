/* SPDX-License-Identifier: Apache-2.0
 *
 * Guesses for the next step: who gets how many, and what was right of them.
 */
#include "base/clock.h"
#include "engine/engine.h"

enum { GIVE_UP_AFTER = 32 }; /* guesses that did not pay: the draft need not read along any more */

/* Guesses that R may have in the next step: none unless it decodes, and none where a guide has to see the
 * token before. */
static int most_guesses(const nib_engine *e, const nib_request *r) {
    const sched_view v = sched_see(e->sched, r->seq);
    if (r->n_generated == 0 || !v.running || v.n_tokens - v.n_computed != 1)
        return 0;
    const int n_free = request_free_tokens(r); /* with the one that is sure */
    return n_free > SPECULATE_MAX ? SPECULATE_MAX : n_free > 0 ? n_free - 1 : 0;
}

static int decode_rows(const nib_engine *e) {
    int rows = 0;
    for (int i = 0; i < e->n_by_seq; i++)
        if (e->by_seq[i]) {
            const sched_view v = sched_see(e->sched, i);
            rows += v.running && v.n_tokens - v.n_computed == 1;
        }
    return rows;
}

/* N guesses become rows of the next step where there is room. Returns how many. */
static int put(nib_engine *e, nib_request *r, const int32_t *guesses, int n) {
    n = sched_draft(e->sched, r->seq, guesses, n);
    if (n > 0)
        r->luck.guess = guesses[0];
    return n;
}

static void plan_lookup(nib_engine *e, int rows) {
    const bool may = speculate_may(&e->costs, rows);
    double expected = rows;
    for (int i = 0; i < e->n_by_seq && rows < SPECULATE_ROWS; i++) {
        int32_t guesses[SPECULATE_MAX];
        nib_request *r = e->by_seq[i];
        const int most = r ? most_guesses(e, r) : 0;
        if (most == 0)
            continue;
        const int n = speculate_lookup(r->tokens, r->n_prompt + r->n_generated, guesses, most);
        const int worth = may ? speculate_worth(&e->costs, &r->luck, rows, expected, n, 0) : 0;
        const int taken = put(e, r, guesses, worth);
        if (taken == 0 && n > 0)
            r->luck.guess = guesses[0]; /* to see whether it would have been right costs nothing */
        expected += speculate_gain(&r->luck, taken);
        rows += taken;
    }
}

/* Tokens that R's answer will have yet: as many as answers have, and one that is longer goes on as long
 * again. */
static int likely_rest(const nib_engine *e, const nib_request *r) {
    const int usual = (int)e->mean_answer - r->n_generated, rest = r->max_tokens - r->n_generated;
    const int likely = usual > r->n_generated ? usual : r->n_generated;
    return likely < rest ? likely : rest;
}

/* The draft follows R already, or what WORTH guesses a step save is more than its reading of the text takes.
 */
static bool is_worth_reading(const nib_engine *e, const nib_request *r, int rows, int worth) {
    return r->draft || e->costs.rows_are_free ||
           speculate_saving(&e->costs, &r->luck, rows, worth, draft_guess_seconds(e->draft),
                            likely_rest(e, r)) > draft_read_seconds(e->draft, r->n_prompt + r->n_generated);
}

static void plan_draft(nib_engine *e, int rows) {
    draft_ask asks[SPECULATE_ROWS];
    nib_request *asked[SPECULATE_ROWS];
    int32_t guesses[SPECULATE_ROWS][SPECULATE_MAX];
    sample_row how[SPECULATE_ROWS];
    double expected = rows;
    int n = 0;
    for (int i = 0; i < e->n_by_seq && rows < SPECULATE_ROWS && n < SPECULATE_ROWS; i++) {
        nib_request *r = e->by_seq[i];
        const int most = r && !r->no_draft ? most_guesses(e, r) : 0;
        if (most == 0)
            continue;
        const int worth =
            speculate_worth(&e->costs, &r->luck, rows, expected, most, draft_guess_seconds(e->draft));
        r->no_draft = worth == 0 && r->luck.n_seen >= GIVE_UP_AFTER;
        if (r->no_draft || !is_worth_reading(e, r, rows, worth))
            continue;
        request_row(r, 0, &how[n]);
        asked[n] = r;
        asks[n] = (draft_ask){.seq = &r->draft,
                              .tokens = r->tokens,
                              .n_tokens = r->n_prompt + r->n_generated,
                              .limit = r->n_prompt + r->max_tokens,
                              .how = &how[n],
                              .guesses = guesses[n],
                              .n_guesses = worth};
        expected += speculate_gain(&r->luck, worth);
        rows += worth;
        n++;
    }
    const double from = clock_seconds();
    const bool failed = draft_guess(e->draft, asks, n, NULL) != NIB_OK;
    e->guess_seconds = clock_seconds() - from;
    e->counted.draft_failures += failed;
    for (int i = 0; i < n; i++) {
        asked[i]->no_draft = !asked[i]->draft; /* it cannot follow, or failed: they go on without */
        if (!failed)
            put(e, asked[i], asks[i].guesses, asks[i].n_guesses);
    }
}

void guesses_plan(nib_engine *e) {
    e->guess_seconds = 0;
    if (e->options.speculate == NIB_SPECULATE_OFF)
        return;
    const int rows = decode_rows(e);
    if (!e->draft)
        plan_lookup(e, rows);
    else if (speculate_may(&e->costs, rows))
        plan_draft(e, rows);
}
