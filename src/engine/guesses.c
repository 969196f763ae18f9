/* SPDX-License-Identifier: Apache-2.0
 *
 * Guesses for the next step: who gets how many, and what was right of them.
 */
#include <math.h>

#include "base/clock.h"
#include "engine/engine.h"

enum {
    GIVE_UP_AFTER = 32, /* guesses that did not pay: the draft need not read along any more */
    LOOK_EVERY = 4      /* tokens, for guesses that are only compared with what comes */
};

/* Guesses that R, which decodes, may have in the next step: none where a guide has to see the token before.
 */
static int most_guesses(const nib_request *r) {
    if (r->n_generated == 0)
        return 0;
    const int n_free = request_free_tokens(r); /* with the one that is sure */
    return n_free > SPECULATE_MAX ? SPECULATE_MAX : n_free > 0 ? n_free - 1 : 0;
}

/* Who decodes in the next step, the one to whom most is owed first: a guess for it may make that good. Where
 * they are too many to guess for, N is 0. */
typedef struct decoders {
    nib_request *list[SPECULATE_ROWS];
    int n;
} decoders;

static double owed(const nib_request *r) {
    return speculate_owed(&r->luck.account);
}

static void add(decoders *d, nib_request *r) {
    int at = d->n++;
    for (; at > 0 && owed(d->list[at - 1]) < owed(r); at--)
        d->list[at] = d->list[at - 1];
    d->list[at] = r;
}

static decoders find_decoders(const nib_engine *e) {
    decoders d = {.n = 0};
    for (int i = 0; i < e->n_by_seq; i++) {
        const sched_view v = e->by_seq[i] ? sched_see(e->sched, i) : (sched_view){0};
        if (!v.running || v.n_tokens - v.n_computed != 1)
            continue;
        if (d.n == SPECULATE_ROWS)
            return (decoders){.n = 0};
        add(&d, e->by_seq[i]);
    }
    return d;
}

/* N guesses become rows of the next step where there is room. Returns how many. */
static int put(nib_engine *e, nib_request *r, const int32_t *guesses, int n) {
    n = sched_draft(e->sched, r->seq, guesses, n);
    if (n > 0)
        r->luck.guess = guesses[0];
    return n;
}

static void plan_lookup(nib_engine *e, const decoders *d, speculate_plan *p) {
    for (int i = 0; i < d->n && p->rows < SPECULATE_ROWS; i++) {
        int32_t guesses[SPECULATE_MAX];
        nib_request *r = d->list[i];
        const int most = most_guesses(r), worth = speculate_worth(&e->costs, p, &r->luck, most, 0);
        if (most == 0 || (worth == 0 && r->n_generated % LOOK_EVERY != 0))
            continue; /* looking takes time, too */
        const int n = speculate_lookup(r->tokens, r->n_prompt + r->n_generated, guesses, most);
        const int taken = put(e, r, guesses, n > 0 ? worth : 0);
        if (taken == 0 && n > 0)
            r->luck.guess = guesses[0]; /* to see whether it would have been right */
        speculate_put(p, &r->luck, taken);
    }
}

/* Tokens that R's answer will have yet: as many as answers have, and one that is longer goes on as long
 * again. */
static int likely_rest(const nib_engine *e, const nib_request *r) {
    const int usual = (int)e->mean_answer - r->n_generated, rest = r->max_tokens - r->n_generated;
    const int likely = usual > r->n_generated ? usual : r->n_generated;
    return likely < rest ? likely : rest;
}

/* It would keep others waiting who have waited for guesses already, or all have lost by them. */
static bool may_read(const nib_engine *e, const decoders *d, const nib_request *r) {
    bool may = speculate_may_invest(&e->costs.account);
    for (int i = 0; i < d->n; i++)
        may = may && (d->list[i] == r || speculate_may_invest(&d->list[i]->luck.account));
    return may;
}

/* The draft follows R already, or may begin to, and what WORTH guesses a step save is more than its reading
 * of the text takes. */
static bool is_worth_reading(const nib_engine *e, const decoders *d, const nib_request *r, int rows,
                             int worth) {
    return r->draft || e->costs.rows_are_free ||
           (may_read(e, d, r) &&
            speculate_saving(&e->costs, &r->luck, rows, worth, draft_guess_seconds(e->draft),
                             likely_rest(e, r)) > draft_read_seconds(e->draft, r->n_prompt + r->n_generated));
}

/* R's guesses would not pay whatever the accounts allowed. */
static bool is_hopeless(const nib_engine *e, const speculate_plan *p, const nib_request *r, int most) {
    speculate_plan free = *p;
    free.most = INFINITY;
    return r->luck.n_seen >= GIVE_UP_AFTER &&
           speculate_worth(&e->costs, &free, &r->luck, most, draft_guess_seconds(e->draft)) == 0;
}

/* Who is asked about in the next step. */
typedef struct asked {
    draft_ask asks[SPECULATE_ROWS];
    nib_request *requests[SPECULATE_ROWS];
    int32_t guesses[SPECULATE_ROWS][SPECULATE_MAX];
    sample_row how[SPECULATE_ROWS];
    int n;
} asked;

static void ask_about(asked *a, nib_request *r, int n_guesses) {
    const int i = a->n++;
    request_row(r, 0, &a->how[i]);
    a->requests[i] = r;
    a->asks[i] = (draft_ask){.seq = &r->draft,
                             .tokens = r->tokens,
                             .n_tokens = r->n_prompt + r->n_generated,
                             .limit = r->n_prompt + r->max_tokens,
                             .how = &a->how[i],
                             .guesses = a->guesses[i],
                             .n_guesses = n_guesses};
}

/* Whom the draft follows it is asked about also where there is no room for guesses: else it would forget
 * them. */
static void ask_all(nib_engine *e, const decoders *d, speculate_plan *p, asked *a) {
    bool begins = false; /* one at a time, to see whether it pays */
    for (int i = 0; i < d->n; i++) {
        nib_request *r = d->list[i];
        const bool has_room = p->rows < SPECULATE_ROWS;
        const int most = r->no_draft ? 0 : most_guesses(r);
        if (most == 0)
            continue;
        const int worth =
            has_room ? speculate_worth(&e->costs, p, &r->luck, most, draft_guess_seconds(e->draft)) : 0;
        r->no_draft = has_room && worth == 0 && is_hopeless(e, p, r, most);
        if (r->no_draft || !is_worth_reading(e, d, r, p->rows, worth) || (begins && !r->draft))
            continue;
        begins = begins || !r->draft;
        ask_about(a, r, worth);
        speculate_put(p, &r->luck, worth);
    }
}

static void plan_draft(nib_engine *e, const decoders *d, speculate_plan *p) {
    asked a = {.n = 0};
    const double from = clock_seconds();
    ask_all(e, d, p, &a);
    const bool failed = draft_guess(e->draft, a.asks, a.n, NULL) != NIB_OK;
    if (draft_has_read(e->draft)) {
        const double seconds = clock_seconds() - from;
        speculate_invest(&e->costs.account, seconds);
        for (int i = 0; i < d->n; i++)
            speculate_invest(&d->list[i]->luck.account, seconds);
    }
    e->counted.draft_failures += failed;
    for (int i = 0; i < a.n; i++) {
        a.requests[i]->no_draft = !a.requests[i]->draft; /* it cannot follow, or failed: they go on without */
        if (!failed)
            put(e, a.requests[i], a.guesses[i], a.asks[i].n_guesses);
    }
}

void guesses_plan(nib_engine *e) {
    e->guess_seconds = 0;
    if (e->options.speculate == NIB_SPECULATE_OFF)
        return;
    const double from = clock_seconds();
    const decoders d = find_decoders(e);
    speculate_plan p = speculate_begin(&e->costs, d.n, d.n > 0 ? owed(d.list[0]) : 0);
    if (!e->draft)
        plan_lookup(e, &d, &p);
    else if (p.most > 0)
        plan_draft(e, &d, &p);
    if (p.rows > d.n && !(e->draft && draft_has_read(e->draft)))
        e->guess_seconds = clock_seconds() - from;
}
