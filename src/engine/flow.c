/* SPDX-License-Identifier: Apache-2.0
 *
 * See flow.h.
 */
#include "engine/flow.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

nib_status flow_open(flow *f, const stop_texts *texts, size_t longest_piece, nib_error *err) {
    *f = (flow){.stops = texts};
    f->room = texts->longest + DETOKENIZER_ROOM(longest_piece) + 1;
    f->text = mem_array(f->room, 1);
    f->held = mem_array(texts->longest + 1, 1);
    f->matched = mem_array(texts->n + 1, sizeof *f->matched);
    if (f->text && f->held && f->matched)
        return NIB_OK;
    flow_close(f);
    return nib_fail(err, NIB_NO_MEMORY, "no memory for the text of a request");
}

void flow_close(flow *f) {
    mem_free(f->text);
    mem_free(f->held);
    mem_free(f->matched);
    *f = (flow){0};
}

int flow_push(flow *f, const tokenizer *words, int32_t token) {
    size_t n = f->n_held, fresh = 0, end = 0;
    memcpy(f->text, f->held, n);
    if (token >= 0 && (size_t)token < tokenizer_vocab(words)) {
        assert(n + DETOKENIZER_ROOM(tokenizer_piece(words, token, f->control).n) < f->room);
        fresh = detokenizer_push(words, &f->detokenizer, token, f->control, f->text + n);
    }
    const int stop = stops_feed(f->stops, f->matched, f->text + n, fresh, &end);
    if (stop >= 0) {
        f->n_text = n + end - f->stops->texts[stop].n;
        f->n_held = 0;
        f->detokenizer.n_held = 0; /* a character that begins behind it is not told */
    } else {
        f->n_held = stops_begun(f->stops, f->matched);
        f->n_text = n + fresh - f->n_held;
    }
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
