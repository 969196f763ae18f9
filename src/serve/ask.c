/* SPDX-License-Identifier: Apache-2.0
 *
 * The fields that all generating requests of OpenAI's kind share, with the additions of vLLM and llama.cpp.
 */
#include "serve/ask.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { MAX_BAD_WORDS = 64, PENALTY_WINDOW = 64 /* tokens; the engine's */ };

#define NOT_HERE "this way to draw is not here"

bool ask_no_memory(api_error *e) {
    return api_error_set(e, API_FAILED, NULL, "out of memory for the request");
}

/* ---- lists ---- */

/* Into *LIST [*N]: texts of the JSON, or one of them alone where ONE may be given. */
static bool read_texts(const char ***list, size_t *n, bool one, const json_t *value, const char *name,
                       api_error *e) {
    const size_t n_items = json_is_array(value) ? json_array_size(value) : 1;
    mem_free(*list);
    *n = 0;
    *list = mem_array(n_items + 1, sizeof **list);
    if (!*list)
        return ask_no_memory(e);
    for (size_t i = 0; i < n_items; i++) {
        const json_t *text = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(text) || !(one || json_is_array(value)))
            return api_error_set(e, API_INVALID, name, "'%s' must be %sa list of strings", name,
                                 one ? "a string or " : "");
        (*list)[(*n)++] = json_string_value(text);
    }
    return true;
}

bool ask_read_stop(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    return read_texts(&a->stops, &a->n_stops, true, value, name, e);
}

static bool read_bad_words(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (json_array_size(value) > MAX_BAD_WORDS) /* each is looked at for every token */
        return api_error_set(e, API_INVALID, name, "'%s' has %zu words; at most %d are looked for", name,
                             json_array_size(value), MAX_BAD_WORDS);
    if (!read_texts(&a->bad_words, &a->n_bad_words, false, value, name, e))
        return false;
    for (size_t i = 0; i < a->n_bad_words; i++)
        if (a->bad_words[i][strspn(a->bad_words[i], " ")] == 0)
            return api_error_set(e, API_INVALID, name, "'%s' must be words; number %zu is empty", name, i);
    return true;
}

static bool read_ids(int32_t **list, size_t *n, const json_t *value, const char *name, api_error *e) {
    const size_t n_items = json_array_size(value);
    mem_free(*list);
    *n = 0;
    *list = mem_array(n_items + 1, sizeof **list);
    if (!*list)
        return ask_no_memory(e);
    for (size_t i = 0; i < n_items; i++) {
        const json_t *id = json_array_get(value, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            break;
        (*list)[(*n)++] = (int32_t)json_integer_value(id);
    }
    return (json_is_array(value) && *n == n_items) ||
           api_error_set(e, API_INVALID, name, "'%s' must be a list of token ids", name);
}

static bool read_stop_ids(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    return read_ids(&a->stop_ids, &a->n_stop_ids, value, name, e);
}

static bool read_allowed(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    return read_ids(&a->allowed, &a->n_allowed, value, name, e) &&
           (a->n_allowed > 0 ||
            api_error_set(e, API_INVALID, name, "'%s' is empty; expected at least one token id", name));
}

/* {"ID": number}, or false for never; also llama.cpp's [[id, bias], ...]. */
static bool read_one_bias(ask *a, long long id, const json_t *bias, const char *name, api_error *e) {
    const bool never = json_is_false(bias);
    const double x = json_number_value(bias);
    if (id < 0 || id > INT32_MAX || !(never || (json_is_number(bias) && x >= -1000 && x <= 1000)))
        return api_error_set(e, API_INVALID, name,
                             "'%s' must give token ids numbers from -1000 to 1000, or false", name);
    a->bias[a->n_bias++] = (nib_token_bias){(int32_t)id, never ? -INFINITY : (float)x};
    return true;
}

static bool read_bias(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    const size_t n = json_is_object(value) ? json_object_size(value) : json_array_size(value);
    const char *key;
    json_t *bias;
    size_t i;
    mem_free(a->bias);
    a->n_bias = 0;
    a->bias = mem_array(n + 1, sizeof *a->bias);
    if (!a->bias)
        return ask_no_memory(e);
    if (!json_is_object(value) && !json_is_array(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object of token ids and numbers", name);
    json_object_foreach((json_t *)value, key, bias) {
        char *end;
        const long long id = strtoll(key, &end, 10);
        if (!read_one_bias(a, *end || end == key ? -1 : id, bias, name, e))
            return false;
    }
    json_array_foreach(value, i, bias) {
        const json_t *id = json_array_get(bias, 0);
        if (!read_one_bias(a, json_is_integer(id) ? json_integer_value(id) : -1, json_array_get(bias, 1),
                           name, e))
            return false;
    }
    return true;
}

/* ---- single fields ---- */

static bool read_seed(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (!json_is_integer(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a whole number", name);
    a->sampling.random_seed = json_integer_value(value) == -1; /* llama.cpp's word for any */
    a->sampling.seed = (uint64_t)json_integer_value(value);
    return true;
}

/* 0 is the strictest top-p to a client, and "off" to the library. */
static bool read_top_p(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    const double p = json_number_value(value);
    if (!json_is_number(value) || !(p >= 0 && p <= 1))
        return api_error_set(e, API_INVALID, name, "'%s' must be a number from 0 to 1", name);
    a->sampling.top_p = p == 0 ? FLT_MIN : (float)p;
    return true;
}

static bool read_top_k(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (!json_is_integer(value) || json_integer_value(value) < -1)
        return api_error_set(e, API_INVALID, name, "'%s' must be a whole number, -1 or 0 for all", name);
    const json_int_t k = json_integer_value(value); /* beyond any vocabulary: all */
    a->sampling.top_k = k < 0 || k > 1 << 24 ? 0 : (int)k;
    return true;
}

/* llama.cpp's name of max_tokens, where -1 is no limit. */
static bool read_n_predict(void *target, const json_t *value, const char *name, api_error *e) {
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < -1 || n > 1 << 30)
        return api_error_set(e, API_INVALID, name, "'%s' must be a whole number, -1 for no limit", name);
    ((ask *)target)->max_tokens = n < 0 ? 1 << 30 : (int)n; /* a ceiling */
    return true;
}

/* Off where it is 0 or less. */
static bool read_top_n_sigma(void *target, const json_t *value, const char *name, api_error *e) {
    (void)target;
    return (json_is_number(value) && json_number_value(value) <= 0) ||
           api_error_set(e, API_INVALID, name, "'%s' must be 0 or -1, which is off: %s", name, NOT_HERE);
}

static bool read_repeat_last_n(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_integer(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a whole number", name);
    ((ask *)target)->has_other_window = json_integer_value(value) != PENALTY_WINDOW;
    return true;
}

static bool read_skip_special(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    ((ask *)target)->keep_special = json_is_false(value);
    return true;
}

static bool read_cache_prompt(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    ((ask *)target)->no_prefix_cache = json_is_false(value);
    return true;
}

static bool read_stream_options(void *target, const json_t *value, const char *name, api_error *e) {
    static const field fields[] = {
        {"include_usage", FIELD_BOOL, offsetof(ask, include_usage), 0, 0, NULL, NULL},
        {"continuous_usage_stats", FIELD_BOOL, offsetof(ask, continuous_usage), 0, 0, NULL, NULL},
        {"include_obfuscation", FIELD_PASS, 0, 0, 0, NULL, NULL},
        FIELD_END};
    static const field *const tables[] = {fields, NULL};
    if (!json_is_object(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object", name);
    return fields_read(tables, target, value, "stream_options.", e);
}

/* ---- the tables ---- */

#define AT(member) offsetof(ask, member)

const field ask_common[] = {
    {"model", FIELD_TEXT, AT(model), 0, 0, NULL, NULL},
    {"request_id", FIELD_TEXT, AT(request_id), 0, 0, NULL, NULL},
    {"cache_salt", FIELD_TEXT, AT(cache_salt), 0, 0, NULL, NULL},
    {"temperature", FIELD_REAL, AT(sampling.temperature), 0, 100, NULL, NULL},
    {"top_p", FIELD_READ, 0, 0, 0, read_top_p, NULL},
    {"top_k", FIELD_READ, 0, 0, 0, read_top_k, NULL},
    {"min_p", FIELD_REAL, AT(sampling.min_p), 0, 1, NULL, NULL},
    {"repetition_penalty", FIELD_REAL, AT(sampling.repeat_penalty), 0.01, 100, NULL, NULL},
    {"repeat_penalty", FIELD_REAL, AT(sampling.repeat_penalty), 0.01, 100, NULL, NULL},
    {"presence_penalty", FIELD_REAL, AT(sampling.presence_penalty), -100, 100, NULL, NULL},
    {"frequency_penalty", FIELD_REAL, AT(sampling.frequency_penalty), -100, 100, NULL, NULL},
    {"seed", FIELD_READ, 0, 0, 0, read_seed, NULL},
    {"max_tokens", FIELD_INT, AT(max_tokens), 0, 1 << 30, NULL, NULL},
    {"min_tokens", FIELD_INT, AT(min_tokens), 0, 1 << 30, NULL, NULL},
    {"n", FIELD_INT, AT(n), 1, ASK_MAX_CHOICES, NULL, NULL},
    {"best_of", FIELD_INT, AT(best_of), 1, ASK_MAX_CHOICES, NULL, NULL},
    {"priority", FIELD_INT, AT(priority), -1000000, 1000000, NULL, NULL},
    {"ignore_eos", FIELD_BOOL, AT(ignore_eos), 0, 0, NULL, NULL},
    {"skip_special_tokens", FIELD_READ, 0, 0, 0, read_skip_special, NULL},
    {"include_stop_str_in_output", FIELD_BOOL, AT(include_stop), 0, 0, NULL, NULL},
    {"stop", FIELD_READ, 0, 0, 0, ask_read_stop, NULL},
    {"stop_token_ids", FIELD_READ, 0, 0, 0, read_stop_ids, NULL},
    {"logit_bias", FIELD_READ, 0, 0, 0, read_bias, NULL},
    {"stream", FIELD_BOOL, AT(stream), 0, 0, NULL, NULL},
    {"stream_options", FIELD_READ, 0, 0, 0, read_stream_options, NULL},
    {"return_token_ids", FIELD_BOOL, AT(return_ids), 0, 0, NULL, NULL},
    {"cache_prompt", FIELD_READ, 0, 0, 0, read_cache_prompt, NULL},
    {"bad_words", FIELD_READ, 0, 0, 0, read_bad_words, NULL},
    {"allowed_token_ids", FIELD_READ, 0, 0, 0, read_allowed, NULL},
    {"prompt_logprobs", FIELD_REFUSED, 0, 0, 0, NULL, "ask for chat or text completions"},
    {"truncate_prompt_tokens", FIELD_REFUSED, 0, 0, 0, NULL, "prompts are never cut"},
    {"logits_processors", FIELD_REFUSED, 0, 0, 0, NULL, NULL},
    {"guided_json", FIELD_REFUSED, 0, 0, 0, NULL, "use structured_outputs or response_format"},
    {"guided_regex", FIELD_REFUSED, 0, 0, 0, NULL, "use structured_outputs"},
    {"guided_choice", FIELD_REFUSED, 0, 0, 0, NULL, "use structured_outputs"},
    {"guided_grammar", FIELD_REFUSED, 0, 0, 0, NULL, "use structured_outputs"},
    FIELD_END};

#define ONLY(name, value, why)                                                                               \
    { name, FIELD_ONLY, 0, value, 0, NULL, why }
#define FALSE(name, why)                                                                                     \
    { name, FIELD_ONLY, 0, false, true, NULL, why }
#define PASS(name)                                                                                           \
    { name, FIELD_PASS, 0, 0, 0, NULL, NULL }

const field ask_ways[] = {{"n_predict", FIELD_READ, 0, 0, 0, read_n_predict, NULL},
                          FALSE("use_beam_search", "answers are drawn, not searched"),
                          FALSE("early_stopping", "it is for beams"),
                          ONLY("typical_p", 1, NOT_HERE),
                          ONLY("tfs_z", 1, NOT_HERE),
                          ONLY("n_probs", 0, "ask for logprobs"),
                          {"top_n_sigma", FIELD_READ, 0, 0, 0, read_top_n_sigma, NULL},
                          ONLY("xtc_probability", 0, NOT_HERE),
                          ONLY("dry_multiplier", 0, NOT_HERE),
                          ONLY("dynatemp_range", 0, NOT_HERE),
                          ONLY("mirostat", 0, NOT_HERE),
                          ONLY("min_keep", 0, NOT_HERE),
                          {"repeat_last_n", FIELD_READ, 0, 0, 0, read_repeat_last_n, NULL},
                          FALSE("post_sampling_probs", "probabilities are the network's own"),
                          FALSE("return_progress", "streams tell tokens alone"),
                          ONLY("id_slot", -1, "a sequence has no slot of its own"),
                          PASS("xtc_threshold"), /* of what is off, as the next */
                          PASS("length_penalty"),
                          PASS("dry_base"),
                          PASS("dry_allowed_length"),
                          PASS("dry_penalty_last_n"),
                          PASS("dry_sequence_breakers"),
                          PASS("dynatemp_exponent"),
                          PASS("mirostat_tau"),
                          PASS("mirostat_eta"),
                          PASS("n_keep"), /* of a context that is shifted, which none is */
                          PASS("n_discard"),
                          FIELD_END};

const field ask_harmless[] = {{"user", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"store", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"metadata", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"service_tier", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"safety_identifier", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"prompt_cache_key", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"prompt_cache_retention", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"spaces_between_special_tokens", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"detokenize", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              {"timings_per_token", FIELD_PASS, 0, 0, 0, NULL, NULL},
                              FIELD_END};

void ask_defaults(ask *a, const json_t *body) {
    *a = (ask){.body = body,
               .sampling = {.size = sizeof a->sampling, .temperature = 1, .top_p = 1, .random_seed = true},
               .max_tokens = -1,
               .prompt_logprobs = -1,
               .n = 1,
               .reasoning_budget = -1};
}

/* Two names of one thing that disagree. */
static bool check_twice(const ask *a, api_error *e) {
    static const char *const names[][2] = {{"max_tokens", "max_completion_tokens"},
                                           {"max_tokens", "max_output_tokens"},
                                           {"max_tokens", "n_predict"},
                                           {"max_completion_tokens", "n_predict"},
                                           {"thinking_token_budget", "thinking_budget_tokens"},
                                           {"thinking_token_budget", "reasoning_budget_tokens"},
                                           {"thinking_budget_tokens", "reasoning_budget_tokens"},
                                           {"repetition_penalty", "repeat_penalty"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *one = json_object_get(a->body, names[i][0]),
                     *other = json_object_get(a->body, names[i][1]);
        if (json_is_number(one) && json_is_number(other) &&
            json_number_value(one) != json_number_value(other))
            return api_error_set(e, API_INVALID, names[i][0],
                                 "'%s' and '%s' are two names of one setting and differ", names[i][0],
                                 names[i][1]);
    }
    return true;
}

/* Who says nothing of how tokens are drawn gets what `nibble run` does: small models wander without. */
static void settle_sampling(ask *a) {
    static const char *const said[] = {"temperature", "top_p", "top_k", "min_p"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (json_is_number(json_object_get(a->body, said[i])))
            return;
    a->sampling.temperature = 0.8f;
    a->sampling.top_k = 40;
    a->sampling.top_p = 0.95f;
    a->sampling.min_p = 0.05f;
}

bool ask_finish(ask *a, api_error *e) {
    settle_sampling(a);
    if (!check_twice(a, e))
        return false;
    if (a->best_of == 0)
        a->best_of = a->n;
    if (a->best_of < a->n)
        return api_error_set(e, API_INVALID, "best_of", "'best_of' is %d; it must be at least n, %d",
                             a->best_of, a->n);
    if (a->best_of > a->n && a->stream)
        return api_error_set(e, API_INVALID, "best_of", "'best_of' above n cannot be streamed");
    if (a->max_tokens >= 0 && a->min_tokens > a->max_tokens)
        return api_error_set(e, API_INVALID, "min_tokens", "'min_tokens' is %d, more than max_tokens, %d",
                             a->min_tokens, a->max_tokens);
    const bool has_end = a->shape.wanted || a->tool_choice >= ASK_TOOLS_REQUIRED;
    if (has_end && (a->ignore_eos || a->min_tokens > 0))
        return api_error_set(
            e, API_INVALID, a->ignore_eos ? "ignore_eos" : "min_tokens",
            "'%s' beside a schema, a grammar or a call that must come: such an answer has an end of "
            "its own",
            a->ignore_eos ? "ignore_eos" : "min_tokens");
    if (a->has_other_window && a->sampling.repeat_penalty != 0 && a->sampling.repeat_penalty != 1)
        return api_error_set(e, API_INVALID, "repeat_last_n",
                             "'repeat_last_n' must be %d, as far as the penalty looks back", PENALTY_WINDOW);
    if ((a->allowed || a->n_bad_words > 0) && (has_end || ask_holds_calls(a)))
        return api_error_set(
            e, API_INVALID, a->allowed ? "allowed_token_ids" : "bad_words",
            "'%s' beside a schema, a grammar or calls that are held to: the two may leave no token "
            "that may come",
            a->allowed ? "allowed_token_ids" : "bad_words");
    if (a->prompt_logprobs >= 0 && (a->stream || (a->echo && a->logprobs)))
        return api_error_set(e, API_INVALID, "prompt_logprobs",
                             a->stream
                                 ? "'prompt_logprobs' cannot be streamed"
                                 : "'prompt_logprobs' beside 'echo' and 'logprobs', which tell the same");
    if (!a->stream && (a->include_usage || a->continuous_usage))
        return api_error_set(e, API_INVALID, "stream_options", "'stream_options' without 'stream'");
    return true;
}

void ask_free(ask *a) {
    mem_free(a->stops);
    mem_free(a->stop_ids);
    mem_free(a->bias);
    mem_free(a->allowed);
    mem_free(a->bad_words);
    json_text_free(a->shape.text);
    json_decref(a->messages);
    json_decref(a->tools);
    json_decref(a->variables);
    *a = (ask){0};
}
