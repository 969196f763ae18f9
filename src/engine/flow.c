/* SPDX-License-Identifier: Apache-2.0
 *
 * See flow.h.
 */
#include "engine/flow.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

/* ---- stop texts ---- */

static nib_status check_stops(const char *const *texts, size_t n, size_t *bytes, nib_error *err) {
    *bytes = 0;
    if (n > FLOW_MAX_STOPS)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu stop texts; at most %d can be given", n, FLOW_MAX_STOPS);
    if (n > 0 && !texts)
        return nib_fail(err, NIB_BAD_ARGUMENT, "stop_texts is NULL; expected %zu of them", n);
    for (size_t i = 0; i < n; i++) {
        size_t length = texts[i] ? strnlen(texts[i], FLOW_MAX_STOP_BYTES + 1) : 0;
        if (length < 1 || length > FLOW_MAX_STOP_BYTES || utf8_valid_prefix(texts[i], length) != length)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "stop text %zu is empty, longer than %d bytes or not UTF-8; expected a text", i,
                            FLOW_MAX_STOP_BYTES);
        *bytes += length;
    }
    return NIB_OK;
}

nib_status flow_stops_open(flow_stops *out, const char *const *texts, size_t n, nib_error *err) {
    size_t bytes;
    *out = (flow_stops){0};
    NIB_TRY(check_stops(texts, n, &bytes, err));
    if (n == 0)
        return NIB_OK;
    strview *views = mem_alloc(n * sizeof *views + bytes);
    if (!views)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu stop texts", n);
    char *at = (char *)(views + n);
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(texts[i]);
        memcpy(at, texts[i], length);
        views[i] = (strview){at, length};
        at += length;
        out->longest = length > out->longest ? length : out->longest;
    }
    out->texts = views;
    out->n = n;
    return NIB_OK;
}

void flow_stops_close(flow_stops *s) {
    mem_free(s->texts);
    *s = (flow_stops){0};
}

/* ---- the flow ---- */

nib_status flow_open(flow *f, const flow_stops *stops, size_t longest_piece, nib_error *err) {
    *f = (flow){.stops = stops};
    f->room = stops->longest + DETOKENIZER_ROOM(longest_piece) + 1;
    f->text = mem_array(f->room, 1);
    f->held = mem_array(stops->longest + 1, 1);
    if (f->text && f->held)
        return NIB_OK;
    flow_close(f);
    return nib_fail(err, NIB_NO_MEMORY, "no memory for the text of a request");
}

void flow_close(flow *f) {
    mem_free(f->text);
    mem_free(f->held);
    *f = (flow){0};
}

/* The stop text that appears first in TEXT [n], from *at on; -1: none. */
static int find_stop(const flow_stops *s, const char *text, size_t n, size_t *at) {
    int found = -1;
    for (size_t i = 0; i < s->n; i++) {
        const char *p = memmem(text, n, s->texts[i].p, s->texts[i].n);
        if (p && (found < 0 || (size_t)(p - text) < *at)) {
            found = (int)i;
            *at = (size_t)(p - text);
        }
    }
    return found;
}

/* Bytes at the end of TEXT [n] with which a stop text begins. */
static size_t begun_stop(const flow_stops *s, const char *text, size_t n) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n; i++) {
        size_t k = s->texts[i].n - 1 < n ? s->texts[i].n - 1 : n;
        for (; k > longest; k--)
            if (memcmp(text + n - k, s->texts[i].p, k) == 0)
                longest = k;
    }
    return longest;
}

int flow_push(flow *f, const tokenizer *words, int32_t token) {
    size_t n = f->n_held, at = 0;
    memcpy(f->text, f->held, n);
    if (token >= 0 && (size_t)token < tokenizer_vocab(words)) {
        assert(n + DETOKENIZER_ROOM(tokenizer_piece(words, token, f->control).n) < f->room);
        n += detokenizer_push(words, &f->detokenizer, token, f->control, f->text + n);
    }
    int stop = find_stop(f->stops, f->text, n, &at);
    f->n_held = stop >= 0 ? 0 : begun_stop(f->stops, f->text, n);
    if (stop >= 0)
        f->detokenizer.n_held = 0; /* a character that begins behind it is not told */
    f->n_text = stop >= 0 ? at : n - f->n_held;
    memcpy(f->held, f->text + f->n_text, f->n_held);
    f->text[f->n_text] = 0;
    return stop;
}

void flow_end(flow *f) {
    memcpy(f->text, f->held, f->n_held);
    f->n_text = f->n_held + detokenizer_flush(&f->detokenizer, f->text + f->n_held);
    f->n_held = 0;
    f->text[f->n_text] = 0;
}
