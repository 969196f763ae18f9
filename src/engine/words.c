/* SPDX-License-Identifier: Apache-2.0
 *
 * The API's words: text and conversations to ids and back. The tokenizer is immutable, so these need no lock
 * and run on the caller's thread.
 */
#include "base/mem.h"
#include "engine/engine.h"

/* The list becomes the caller's, or nothing does. */
static nib_status hand_over(nib_status status, token_list *list, int32_t **ids, size_t *n_ids) {
    if (status != NIB_OK) {
        token_list_free(list);
        return status;
    }
    *ids = list->ids;
    *n_ids = list->n;
    return NIB_OK;
}

nib_status nib_tokenize(const nib_engine *e, const char *text, size_t bytes, unsigned flags, int32_t **ids,
                        size_t *n_ids, nib_error *err) {
    token_list list = {0};
    nib_status status = NIB_OK;
    if (!e || (!text && bytes > 0) || !ids || !n_ids)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_tokenize: the engine, the text or a place for ids is NULL");
    const tokenizer *words = e->l->words;
    *ids = NULL;
    *n_ids = 0;
    if (!(flags & NIB_TOKENIZE_NO_BOS) && tokenizer_adds_bos(words))
        status = token_list_push(&list, tokenizer_bos(words), err);
    if (status == NIB_OK)
        status = tokenizer_encode(words, text, bytes,
                                  flags & NIB_TOKENIZE_NO_SPECIAL ? TOKENIZE_NO_SPECIAL : 0, &list, err);
    if (status == NIB_OK && flags & NIB_TOKENIZE_CLOSED && tokenizer_closing(words) >= 0)
        status = token_list_push(&list, tokenizer_closing(words), err);
    return hand_over(status, &list, ids, n_ids);
}

nib_status nib_chat_tokens(const nib_engine *e, const nib_message *messages, size_t n_messages, int32_t **ids,
                           size_t *n_ids, nib_error *err) {
    token_list list = {0};
    if (!e || (!messages && n_messages > 0) || !ids || !n_ids)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_chat_tokens: the engine, the messages or a place for ids is NULL");
    for (size_t i = 0; i < n_messages; i++)
        if (!messages[i].role || !messages[i].content)
            return nib_fail(err, NIB_BAD_ARGUMENT, "message %zu has no role or no content", i);
    *ids = NULL;
    *n_ids = 0;
    if (!e->l->chat)
        return nib_fail(err, NIB_UNSUPPORTED, "%s", e->l->chat_problem.text);
    nib_status status = chat_tokens(e->l->chat, e->l->words, messages, n_messages, &list, err);
    return hand_over(status, &list, ids, n_ids);
}

/* Room for all pieces at once: the detokenizer's bound is per byte, whatever the pieces it comes in. */
nib_status nib_detokenize(const nib_engine *e, const int32_t *ids, size_t n, char **text, size_t *bytes,
                          nib_error *err) {
    if (!e || (!ids && n > 0) || !text || !bytes)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_detokenize: the engine, the ids or a place for text is NULL");
    const tokenizer *words = e->l->words;
    size_t known = tokenizer_vocab(words), rows = (size_t)e->l->file->hp.vocab, all = 0;
    *text = NULL;
    *bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ((size_t)ids[i] >= known && (size_t)ids[i] >= rows))
            return nib_fail(err, NIB_BAD_ARGUMENT, "token %zu is %d; the vocabulary has %zu", i, (int)ids[i],
                            known > rows ? known : rows);
        all += (size_t)ids[i] < known ? tokenizer_piece(words, ids[i], false).n : 0;
    }
    char *out = mem_array(DETOKENIZER_ROOM(all) + 1, 1);
    if (!out)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the text of %zu tokens", n);
    detokenizer d = {0};
    size_t written = 0;
    for (size_t i = 0; i < n; i++)
        if ((size_t)ids[i] < known) /* the head may have rows to spare: no text */
            written += detokenizer_push(words, &d, ids[i], false, out + written);
    written += detokenizer_flush(&d, out + written);
    out[written] = 0;
    *text = out;
    *bytes = written;
    return NIB_OK;
}

nib_status nib_token_bytes(const nib_engine *e, int32_t token, const char **bytes, size_t *n_bytes,
                           nib_error *err) {
    if (!e || !bytes || !n_bytes)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_token_bytes: the engine or a place for bytes is NULL");
    const size_t known = tokenizer_vocab(e->l->words), rows = (size_t)e->l->file->hp.vocab;
    if (token < 0 || ((size_t)token >= known && (size_t)token >= rows))
        return nib_fail(err, NIB_BAD_ARGUMENT, "token %d is not in the vocabulary of %zu", (int)token,
                        known > rows ? known : rows);
    const strview piece =
        (size_t)token < known ? tokenizer_piece(e->l->words, token, true) : (strview){"", 0};
    *bytes = piece.p ? piece.p : "";
    *n_bytes = piece.n;
    return NIB_OK;
}

const char *nib_version(void) {
    return NIB_VERSION;
}

void nib_free(void *memory) {
    mem_free(memory);
}
