/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/completions.
 */
#include "serve/ask.h"

static bool read_logprobs(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (json_is_boolean(value)) { /* some clients say false for none */
        a->logprobs = json_is_true(value);
        return true;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > NIB_MAX_LOGPROBS)
        return api_error_set(e, API_INVALID, name, "'%s' must be a whole number from 0 to %d", name,
                             NIB_MAX_LOGPROBS);
    a->logprobs = true;
    a->top_logprobs = (int)json_integer_value(value);
    return true;
}

static const field fields[] = {
    {"prompt", FIELD_JSON, offsetof(ask, prompt), 0, 0, NULL, NULL},
    {"echo", FIELD_BOOL, offsetof(ask, echo), 0, 0, NULL, NULL},
    {"logprobs", FIELD_READ, 0, 0, 0, read_logprobs, NULL},
    {"suffix", FIELD_REFUSED, 0, 0, 0, NULL, "this model does not fill in the middle"},
    FIELD_END};
const field *const ask_completion_tables[] = {fields, ask_common, ask_shape_fields, ask_harmless, NULL};

/* All strings, all ids, or all lists of ids. */
static bool check_list(const json_t *list, api_error *e) {
    const size_t n = json_array_size(list);
    const json_t *first = json_array_get(list, 0), *item;
    size_t i;
    bool good = n > 0 && (json_is_string(first) || json_is_integer(first) || json_is_array(first));
    json_array_foreach(list, i, item) {
        good = good && json_typeof(item) == json_typeof(first);
        size_t k;
        const json_t *id;
        if (json_is_array(item))
            json_array_foreach(item, k, id) good = good && json_is_integer(id);
    }
    if (good && !json_is_integer(first) && n > ASK_MAX_PROMPTS)
        return api_error_set(e, API_INVALID, "prompt",
                             "'prompt' has %zu prompts; at most %d can be asked at once", n, ASK_MAX_PROMPTS);
    return good ||
           api_error_set(
               e, API_INVALID, "prompt",
               "'prompt' must be a string, a list of strings, of token ids, or of lists of token ids");
}

bool ask_read_completion(ask *a, const json_t *body, api_error *e) {
    ask_defaults(a, body);
    if (!fields_read(ask_completion_tables, a, body, "", e))
        return false;
    if (!json_is_string(a->prompt) && !check_list(a->prompt, e))
        return false;
    if (a->max_tokens < 0)
        a->max_tokens = 16; /* OpenAI's default of this route */
    return ask_finish(a, e);
}
