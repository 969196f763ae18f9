/* SPDX-License-Identifier: Apache-2.0
 *
 * See budget.h.
 */
#include "serve/budget.h"

#include <limits.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"

struct budget {
    nib_guide guide; /* ours */
    nib_guide inner; /* .mask NULL: none */
    nib_engine *engine;
    nib_reader *reader;
    int left;         /* tokens of reasoning */
    int32_t *closing; /* [n_closing] */
    size_t n_closing, n_closed;
};

/* Whether the reasoning is being closed. */
static bool is_closing(const budget *b) {
    return b->n_closed < b->n_closing &&
           (b->n_closed > 0 || (b->left <= 0 && nib_reader_in_reasoning(b->reader)));
}

static nib_status mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    const budget *b = context;
    if (is_closing(b)) {
        const int32_t token = b->closing[b->n_closed];
        bits[token / 32] |= 1u << (token % 32);
        return NIB_OK;
    }
    return b->inner.mask(b->inner.context, bits, n_words, err);
}

/* Each token of reasoning takes one from what is left; nothing else is bound where there is no inner guide.
 */
static int n_free(void *context) {
    const budget *b = context;
    if (is_closing(b) || b->inner.mask)
        return 0;
    return b->n_closed == b->n_closing ? INT_MAX : b->left > 1 ? b->left : 1;
}

static nib_status accept(void *context, int32_t token, nib_error *err) {
    budget *b = context;
    const char *bytes;
    size_t n;
    if (is_closing(b))
        b->n_closed++;
    else
        b->left -= nib_reader_in_reasoning(b->reader);
    if (b->n_closed < b->n_closing) { /* afterwards nothing is counted */
        NIB_TRY(nib_token_bytes(b->engine, token, &bytes, &n, err));
        NIB_TRY(nib_reader_push(b->reader, bytes, n, NULL, NULL, err));
    }
    return b->inner.accept ? b->inner.accept(b->inner.context, token, err) : NIB_OK;
}

static nib_status open_parts(budget *b, const nib_reader *unread, const char *closing, nib_error *err) {
    NIB_TRY(nib_reader_again(unread, &b->reader, err));
    return nib_tokenize(b->engine, closing, strlen(closing), NIB_TOKENIZE_NO_BOS, &b->closing, &b->n_closing,
                        err);
}

nib_status budget_open(budget **out, nib_engine *engine, const nib_reader *unread, int n_tokens,
                       const char *closing, const nib_guide *inner, nib_error *err) {
    budget *b = *out = mem_array(1, sizeof *b);
    if (!b)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the request");
    b->guide =
        (nib_guide){.size = sizeof b->guide, .context = b, .mask = mask, .accept = accept, .n_free = n_free};
    b->engine = engine;
    b->left = n_tokens;
    if (inner)
        b->inner = *inner;
    const nib_status status = open_parts(b, unread, closing, err);
    if (status != NIB_OK) {
        budget_close(b);
        *out = NULL;
    }
    return status;
}

void budget_close(budget *b) {
    if (!b)
        return;
    nib_reader_close(b->reader);
    nib_free(b->closing);
    mem_free(b);
}

const nib_guide *budget_guide(const budget *b) {
    return &b->guide;
}
