/* SPDX-License-Identifier: Apache-2.0
 *
 * A network beside the network. See draft.h.
 */
#include "engine/draft.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/speculate.h"
#include "sched/sched.h"

enum {
    ROOM = SPECULATE_MAX + 2, /* tokens beyond a sequence's end that are guessed */
    READ_ROWS = 128           /* of texts that it reads first, in a step: others' answers wait meanwhile */
};

#define WEIGHT (1.0 / 16)

struct draft_seq {
    draft_seq *next, **owner;
    int id;          /* the scheduler's */
    int32_t n_alike; /* tokens that are the larger network's too */
    draft_ask *ask;  /* of this time, or NULL */
    int32_t tokens[];
};

struct draft {
    loaded *l;
    sched *sched;
    draft_seq *seqs;
    bool has_read;
    double guess_s, row_s; /* of a guess, of a row of text that is read; 0: none was */
    sample_row *rows;      /* [max_out], as the next four */
    sampled *sampled;
    int32_t *tokens;
    int *n_accepted;
    bool *ended;
};

/* ---- life ---- */

static nib_status check_words(const loaded *small, const char *path, const loaded *target, nib_error *err) {
    const size_t n = tokenizer_vocab(small->words), wanted = tokenizer_vocab(target->words);
    if (n != wanted)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: its vocabulary has %zu words; a draft needs the model's own, %zu", path, n,
                        wanted);
    for (size_t id = 0; id < n; id++) {
        const strview a = tokenizer_piece(small->words, (int32_t)id, true),
                      b = tokenizer_piece(target->words, (int32_t)id, true);
        if (a.n != b.n || memcmp(a.p, b.p, a.n) != 0)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "%s: token %zu is another word than the model's; a draft needs the same words",
                            path, id);
    }
    return NIB_OK;
}

static nib_status open_sched(draft *d, const char *path, nib_error *err) {
    const model_limits *limits = &d->l->limits;
    sched_limits l = {.max_seqs = d->l->options.max_num_seqs,
                      .max_rows = limits->max_rows,
                      .max_out = limits->max_out,
                      .max_len = d->l->options.max_model_len,
                      .no_prefix_cache = true};
    cache_shape shapes[CACHE_MAX_GROUPS];
    l.n_groups = model_groups(&d->l->file->hp, limits->kv_dtype, shapes);
    for (int g = 0; g < l.n_groups; g++) {
        l.groups[g] = shapes[g].group;
        l.groups[g].n_pages = limits->n_pages[g];
        if (l.groups[g].kind == CACHE_STATE)
            return nib_fail(err, NIB_UNSUPPORTED, "%s: a network with recurrent layers cannot be a draft",
                            path);
        if (l.groups[g].kind == CACHE_WINDOW) /* what is taken back is still seen */
            l.groups[g].window += ROOM;
    }
    return sched_open(&d->sched, &l, err);
}

static nib_status open_parts(draft *d, const char *path, const loaded *target, nib_error *err) {
    nib_options o = target->options;
    loaded_needs needs = {.own_weights = true};
    o.speculate = NIB_SPECULATE_OFF;
    o.draft = NULL;
    o.max_model_len = 0;
    loaded *file;
    NIB_TRY(loaded_open(&file, path, &o, &(loaded_needs){.no_model = true}, err));
    nib_status status = check_words(file, path, target, err);
    const int longest = file->file->hp.context_len;
    loaded_close(file);
    if (status != NIB_OK)
        return status;
    o.max_model_len =
        target->options.max_model_len + ROOM < longest ? target->options.max_model_len + ROOM : longest;
    needs.max_rows = o.max_num_seqs > READ_ROWS ? o.max_num_seqs : READ_ROWS;
    NIB_TRY(loaded_open(&d->l, path, &o, &needs, err));
    NIB_TRY(open_sched(d, path, err));
    const size_t n = (size_t)d->l->limits.max_out;
    d->rows = mem_array(n, sizeof *d->rows);
    d->sampled = mem_array(n, sizeof *d->sampled);
    d->tokens = mem_array(n, sizeof *d->tokens);
    d->n_accepted = mem_array(n, sizeof *d->n_accepted);
    d->ended = mem_array(n, sizeof *d->ended);
    if (!d->rows || !d->sampled || !d->tokens || !d->n_accepted || !d->ended)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a draft", path);
    return NIB_OK;
}

nib_status draft_open(draft **out, const char *path, const loaded *target, nib_error *err) {
    *out = NULL;
    draft *d = mem_array(1, sizeof *d);
    if (!d)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a draft", path);
    const nib_status status = open_parts(d, path, target, err);
    if (status != NIB_OK)
        draft_close(d);
    else
        *out = d;
    return status;
}

void draft_close(draft *d) {
    if (!d)
        return;
    while (d->seqs)
        draft_forget(d, d->seqs->owner);
    sched_close(d->sched);
    mem_free(d->rows);
    mem_free(d->sampled);
    mem_free(d->tokens);
    mem_free(d->n_accepted);
    mem_free(d->ended);
    loaded_close(d->l);
    mem_free(d);
}

/* ---- sequences ---- */

/* Q's scheduled sequence has ended, or ends now. */
static void forget(draft *d, draft_seq *q, bool still_scheduled) {
    draft_seq **at = &d->seqs;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    *q->owner = NULL;
    if (still_scheduled)
        sched_end(d->sched, q->id);
    mem_free(q);
}

void draft_forget(draft *d, draft_seq **seq) {
    if (*seq)
        forget(d, *seq, true);
}

static nib_status follow(draft *d, draft_ask *a, nib_error *err) {
    const int32_t limit = a->limit + ROOM;
    if (limit > d->l->options.max_model_len)
        return NIB_OK; /* longer than the draft can read */
    draft_seq *q = mem_alloc(sizeof *q + (size_t)limit * sizeof *q->tokens);
    if (!q)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a draft of %d tokens", limit);
    *q = (draft_seq){.owner = a->seq, .n_alike = a->n_tokens};
    memcpy(q->tokens, a->tokens, (size_t)a->n_tokens * sizeof *q->tokens);
    const nib_status status =
        sched_add(d->sched, &(sched_request){.tokens = q->tokens, .n_prompt = a->n_tokens, .limit = limit},
                  &q->id, err);
    if (status != NIB_OK) {
        mem_free(q);
        return status;
    }
    q->next = d->seqs;
    *a->seq = d->seqs = q;
    return NIB_OK;
}

/* Q goes on from where the larger network is. */
static void catch_up(draft *d, draft_seq *q, const draft_ask *a) {
    const int32_t n = sched_see(d->sched, q->id).n_tokens;
    int32_t alike = q->n_alike;
    while (alike < n && alike < a->n_tokens && q->tokens[alike] == a->tokens[alike])
        alike++;
    sched_rewrite(d->sched, q->id, alike, a->tokens + alike, a->n_tokens - alike);
    q->n_alike = a->n_tokens;
}

static nib_status take_asks(draft *d, draft_ask *asks, int n, nib_error *err) {
    for (draft_seq *q = d->seqs; q; q = q->next)
        q->ask = NULL;
    for (int i = 0; i < n; i++) {
        if (*asks[i].seq)
            catch_up(d, *asks[i].seq, &asks[i]);
        else
            NIB_TRY(follow(d, &asks[i], err));
        if (*asks[i].seq)
            (*asks[i].seq)->ask = &asks[i];
    }
    for (draft_seq *q = d->seqs, *next; q; q = next) {
        next = q->next;
        if (!q->ask)
            forget(d, q, true);
    }
    return NIB_OK;
}

/* ---- guesses ---- */

static draft_seq *find(const draft *d, int id) {
    draft_seq *q = d->seqs;
    while (q->id != id)
        q = q->next;
    return q;
}

static nib_status one_step(draft *d, const sched_step *step, nib_error *err) {
    for (int k = 0; k < step->n_outs; k++) {
        const draft_seq *q = find(d, step->outs[k].id);
        const int32_t n_tokens = sched_see(d->sched, q->id).n_tokens;
        sample_row *row = &d->rows[k];
        *row = *q->ask->how;
        row->tokens = q->tokens;
        row->n_tokens = n_tokens;
        row->position += (uint64_t)(n_tokens - q->ask->n_tokens);
        row->n_top = -1;
    }
    for (int i = 0; i < step->n_copies; i++)
        model_copy_page(d->l->model, step->copies[i].group, step->copies[i].to, step->copies[i].from);
    model_begin(d->l->model, step->batch, d->rows, d->sampled);
    NIB_TRY(model_wait(d->l->model, NULL, err));
    const int32_t n_words = (int32_t)tokenizer_vocab(d->l->words);
    for (int k = 0; k < step->n_outs; k++) {
        const int32_t token = d->sampled[k].token;
        d->tokens[k] = token;
        d->ended[k] = token < 0 || token >= n_words; /* no word: it knows nothing more */
        d->n_accepted[k] = !d->ended[k];
    }
    sched_commit(d->sched, d->tokens, d->n_accepted, d->ended);
    for (int k = 0; k < step->n_outs; k++)
        if (d->ended[k])
            forget(d, find(d, step->outs[k].id), false);
    return NIB_OK;
}

static void follow_mean(double *mean, double value) {
    *mean += (*mean == 0 ? 1 : WEIGHT) * (value - *mean);
}

static nib_status run(draft *d, int rounds, nib_error *err) {
    for (int i = 0; i < rounds; i++) {
        const double began = clock_seconds();
        const sched_step *step = sched_next(d->sched);
        if (!step)
            return NIB_OK;
        const int n_rows = step->batch->n_rows;
        const bool only_decodes = step->n_decode_rows == step->batch->n_rows;
        const nib_status status = one_step(d, step, err);
        if (status != NIB_OK) {
            const int *ids;
            for (int k = 0, n = sched_drop(d->sched, &ids); k < n; k++)
                forget(d, find(d, ids[k]), false);
            return status;
        }
        const double seconds = clock_seconds() - began;
        if (!only_decodes) {
            follow_mean(&d->row_s, seconds / n_rows);
            d->has_read = true;
            return NIB_OK; /* one step of reading is enough to wait for */
        }
        follow_mean(&d->guess_s, seconds);
    }
    return NIB_OK;
}

nib_status draft_guess(draft *d, draft_ask *asks, int n, nib_error *err) {
    int rounds = 0;
    d->has_read = false;
    for (int i = 0; i < n; i++)
        rounds = asks[i].n_guesses > rounds ? asks[i].n_guesses : rounds;
    NIB_TRY(take_asks(d, asks, n, err));
    NIB_TRY(run(d, rounds, err));
    for (int i = 0; i < n; i++) {
        draft_ask *a = &asks[i];
        const draft_seq *q = *a->seq;
        const int32_t came = q ? sched_see(d->sched, q->id).n_tokens - a->n_tokens : 0;
        a->n_guesses = came < a->n_guesses ? came : a->n_guesses;
        if (a->n_guesses > 0)
            memcpy(a->guesses, q->tokens + a->n_tokens, (size_t)a->n_guesses * sizeof *a->guesses);
    }
    return NIB_OK;
}

bool draft_has_read(const draft *d) {
    return d->has_read;
}

double draft_guess_seconds(const draft *d) {
    return d->guess_s;
}

double draft_read_seconds(const draft *d, int n) {
    return d->row_s * n;
}
