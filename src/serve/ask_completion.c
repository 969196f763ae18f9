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
    {"prompt_logprobs", FIELD_INT, offsetof(ask, prompt_logprobs), 0, NIB_MAX_LOGPROBS, NULL, NULL},
    {"add_special_tokens", FIELD_ONLY, 0, true, true, NULL, "a text begins as the model's texts do"},
    {"suffix", FIELD_REFUSED, 0, 0, 0, NULL, "this model does not fill in the middle"},
    FIELD_END};
const field *const ask_completion_tables[] = {fields,           ask_common,   ask_ways,
                                              ask_shape_fields, ask_harmless, NULL};

/* A string, or a list of strings, of ids, of lists of ids. */
static bool is_prompt(const json_t *prompt) {
    const json_t *first = json_array_get(prompt, 0), *item, *id;
    bool good = json_is_string(first) || json_is_integer(first) || json_is_array(first);
    size_t i, k;
    json_array_foreach(prompt, i, item) {
        good = good && json_typeof(item) == json_typeof(first);
        if (json_is_array(item))
            json_array_foreach(item, k, id) good = good && json_is_integer(id);
    }
    return good || json_is_string(prompt);
}

bool ask_check_prompt(const ask *a, size_t most, api_error *e) {
    const size_t n = json_array_size(a->prompt);
    if (!is_prompt(a->prompt))
        return api_error_set(
            e, API_INVALID, a->prompt_name,
            "'%s' must be a string, a list of strings, of token ids, or of lists of token ids",
            a->prompt_name);
    return n <= most || json_is_integer(json_array_get(a->prompt, 0)) ||
           api_error_set(e, API_INVALID, a->prompt_name,
                         "'%s' has %zu texts; at most %zu can be asked at once", a->prompt_name, n, most);
}

bool ask_read_completion(ask *a, const json_t *body, api_error *e) {
    ask_defaults(a, body);
    a->prompt_name = "prompt";
    if (!fields_read(ask_completion_tables, a, body, "", e) || !ask_check_prompt(a, ASK_MAX_PROMPTS, e))
        return false;
    if (a->max_tokens < 0)
        a->max_tokens = 16; /* OpenAI's default of this route */
    return ask_finish(a, e);
}
