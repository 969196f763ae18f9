/* SPDX-License-Identifier: Apache-2.0
 *
 * See calib_set.h.
 */
#include "eval/calib_set.h"

#include <string.h>

#include "base/mem.h"

#define BYTES_PER_TOKEN 16 /* rarely more in a whole text; if so, a longer part is taken */
#define SPARE_TOKENS    64
#define LEAST_TOKENS    128
#define LEAST_WINDOWS   8

/* Cut at a border of characters, with ids to spare since the last ones may depend on what follows. */
nib_status calib_set_encode(const tokenizer *words, const char *text, size_t bytes, size_t max_tokens,
                            token_list *list, nib_error *err) {
    const size_t enough = max_tokens + SPARE_TOKENS;
    for (size_t room = BYTES_PER_TOKEN * enough;; room *= 4) {
        size_t n = max_tokens && room < bytes ? room : bytes;
        while (n > 0 && n < bytes && ((unsigned char)text[n] & 0xC0) == 0x80)
            n--;
        list->n = 0;
        NIB_TRY(tokenizer_encode(words, text, n, TOKENIZE_NO_SPECIAL, list, err));
        if (n == bytes || list->n >= enough)
            return NIB_OK;
    }
}

/* Of a text of so many tokens: a short one is cut into eight. */
static size_t window_of(size_t n_tokens) {
    const size_t part = n_tokens / LEAST_WINDOWS;
    return part < CALIB_SET_WINDOW ? part : CALIB_SET_WINDOW;
}

nib_status calib_set_append(calib_set *s, const int32_t *ids, size_t n, size_t window, int32_t bos,
                            nib_error *err) {
    size_t per_window = window - (bos >= 0), more = (n + per_window - 1) / per_window;
    size_t n_ids = s->n_windows ? s->starts[s->n_windows] : 0;
    int32_t *grown = mem_resize(s->ids, n_ids + n + more + 1, sizeof *grown);
    if (grown)
        s->ids = grown;
    size_t *starts = mem_resize(s->starts, s->n_windows + more + 1, sizeof *starts);
    if (starts)
        s->starts = starts;
    if (!grown || !starts)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a calibration text of %zu tokens", n);
    s->starts[s->n_windows] = n_ids;
    for (size_t at = 0; at < n; at += per_window) {
        size_t part = n - at < per_window ? n - at : per_window;
        if (bos >= 0)
            s->ids[n_ids++] = bos;
        memcpy(s->ids + n_ids, ids + at, part * sizeof *ids);
        n_ids += part;
        s->starts[++s->n_windows] = n_ids;
    }
    s->n_tokens += n;
    return NIB_OK;
}

void calib_set_join(calib_set *s, size_t first, int32_t bos) {
    const size_t limit = window_of(s->starts[s->n_windows] - s->starts[first]);
    size_t n = first, at = s->starts[first], from = at;
    for (size_t w = first; w < s->n_windows; w++) {
        const size_t end = s->starts[w + 1];
        const bool joins = n > first && at - s->starts[n - 1] + (end - from) <= limit;
        from += joins && s->ids[from] == bos;
        memmove(s->ids + at, s->ids + from, (end - from) * sizeof *s->ids);
        at += end - from;
        n += !joins;
        s->starts[n] = at;
        from = end;
    }
    s->n_windows = n;
}

nib_status calib_set_text(calib_set *s, const tokenizer *words, const char *text, size_t bytes,
                          size_t max_tokens, nib_error *err) {
    token_list list = {0};
    int32_t bos = tokenizer_adds_bos(words) ? tokenizer_bos(words) : -1;
    nib_status status = calib_set_encode(words, text, bytes, max_tokens, &list, err);
    size_t n = max_tokens && list.n > max_tokens ? max_tokens : list.n;
    if (status == NIB_OK && n < LEAST_TOKENS)
        status = nib_fail(err, NIB_BAD_ARGUMENT,
                          "the calibration text has %zu tokens; expected %d at least, better 40,000", n,
                          LEAST_TOKENS);
    if (status == NIB_OK)
        status = calib_set_append(s, list.ids, n, window_of(n), bos, err);
    token_list_free(&list);
    return status;
}

void calib_set_free(calib_set *s) {
    mem_free(s->ids);
    mem_free(s->starts);
    *s = (calib_set){0};
}
