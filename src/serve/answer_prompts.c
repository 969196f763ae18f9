/* SPDX-License-Identifier: Apache-2.0
 *
 * Texts and lists of ids, as completions and embeddings take them, become an answer's prompts.
 */
#include "base/mem.h"
#include "serve/answer.h"

static bool add_text(answer *r, const json_t *text, api_error *e) {
    int32_t *ids;
    size_t n;
    nib_error words = {""};
    const nib_status status =
        nib_tokenize(r->server->engine, json_string_value(text), json_string_length(text),
                     r->ask.embeds ? NIB_TOKENIZE_CLOSED : 0, &ids, &n, &words);
    return status == NIB_OK ? answer_add_prompt(r, ids, n, e) : api_error_from(e, status, &words);
}

/* IDS become memory that nib_free frees, as the tokenizer's. */
static bool add_ids(answer *r, const json_t *list, api_error *e) {
    const size_t n = json_array_size(list);
    const int vocab = r->server->info.vocab_size;
    int32_t *ids = mem_array(n + 1, sizeof *ids);
    if (!ids)
        return ask_no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_int_t id = json_integer_value(json_array_get(list, i));
        if (id < 0 || id >= vocab) {
            mem_free(ids);
            return api_error_set(e, API_INVALID, r->ask.prompt_name,
                                 "token %zu of '%s' is %lld; the vocabulary has %d", i, r->ask.prompt_name,
                                 (long long)id, vocab);
        }
        ids[i] = (int32_t)id;
    }
    return answer_add_prompt(r, ids, n, e);
}

bool answer_add_prompts(answer *r, api_error *e) {
    const json_t *prompt = r->ask.prompt, *item;
    size_t i;
    if (json_is_string(prompt))
        return add_text(r, prompt, e);
    if (json_is_integer(json_array_get(prompt, 0)))
        return add_ids(r, prompt, e);
    json_array_foreach(prompt, i, item) {
        if (!(json_is_string(item) ? add_text(r, item, e) : add_ids(r, item, e)))
            return false;
    }
    return true;
}
