/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of requests, read without a model: what the fields become, and what is refused in which words.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "serve/ask.h"

typedef bool (*reader)(ask *a, const json_t *body, api_error *e);

static bool read_messages(ask *a, const json_t *body, api_error *e) {
    return ask_read_messages(a, body, false, e);
}

static json_t *parse(const char *text) {
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (!json)
        fail_msg("%s: %s", text, error.text);
    return json;
}

/* BODY outlives A; both are freed by forget. */
typedef struct asked {
    json_t *body;
    ask a;
} asked;

static asked expect_read(reader read, const char *text) {
    asked q = {.body = parse(text)};
    api_error e = {0};
    if (!read(&q.a, q.body, &e))
        fail_msg("%s: %s", text, e.message);
    assert_int_equal(e.kind, API_NO_ERROR);
    return q;
}

static void forget(asked *q) {
    ask_free(&q->a);
    json_decref(q->body);
}

/* ---- what is read ---- */

static void test_completion(void **state) {
    (void)state;
    asked q =
        expect_read(ask_read_completion,
                    "{\"prompt\": [[1, 2], [3]], \"max_tokens\": 7, \"stop\": [\"a\", \"b\"], \"n\": 2, "
                    "\"best_of\": 3, \"seed\": 9, \"temperature\": 0.5, \"top_p\": 0, \"top_k\": -1, "
                    "\"logit_bias\": {\"5\": -1.5, \"6\": false}, \"stop_token_ids\": [8], "
                    "\"logprobs\": 2, \"user\": \"me\", \"suffix\": null}");
    assert_int_equal(q.a.max_tokens, 7);
    assert_int_equal(q.a.n, 2);
    assert_int_equal(q.a.best_of, 3);
    assert_true(q.a.sampling.seed == 9 && !q.a.sampling.random_seed);
    assert_true(q.a.sampling.temperature == 0.5f && q.a.sampling.top_p > 0 && q.a.sampling.top_k == 0);
    assert_true(q.a.sampling.min_p == 0); /* who says anything of sampling has said all */
    assert_int_equal(q.a.n_stops, 2);
    assert_string_equal(q.a.stops[1], "b");
    assert_int_equal(q.a.stop_ids[0], 8);
    assert_int_equal(q.a.n_bias, 2);
    assert_true(q.a.logprobs && q.a.top_logprobs == 2);
    for (size_t i = 0; i < 2; i++)
        assert_true(q.a.bias[i].token == 5 ? q.a.bias[i].bias == -1.5f : q.a.bias[i].bias == -INFINITY);
    forget(&q);
    q = expect_read(ask_read_completion, "{\"prompt\": \"x\"}");
    assert_int_equal(q.a.max_tokens, 16);
    assert_true(q.a.sampling.temperature == 0.8f && q.a.sampling.random_seed);
    forget(&q);
}

/* The JSON text of the messages that a body of another API becomes. */
static void expect_messages(reader read, const char *text, const char *expected) {
    asked q = expect_read(read, text);
    json_t *wanted = parse(expected);
    if (!json_equal(q.a.messages, wanted))
        fail_msg("%s became %s", text, json_dumps(q.a.messages, JSON_COMPACT));
    json_decref(wanted);
    forget(&q);
}

static void test_conversations(void **state) {
    (void)state;
    expect_messages(
        ask_read_chat,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, "
        "{\"type\": \"text\", \"text\": \"b\", \"cache_control\": {}}]}]}",
        "[{\"role\": \"user\", \"content\": \"a\\nb\"}]");
    expect_messages(
        read_messages,
        "{\"max_tokens\": 5, \"system\": [{\"type\": \"text\", \"text\": \"x-anthropic-billing-header: "
        "cch=1;\\n\"}, {\"type\": \"text\", \"text\": \"Be brief.\"}], \"messages\": [{\"role\": \"user\", "
        "\"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": [{\"type\": \"thinking\", "
        "\"thinking\": \"hm\", \"signature\": \"\"}, {\"type\": \"tool_use\", \"id\": \"t\", \"name\": "
        "\"f\", \"input\": {\"a\": 1}}]}, {\"role\": \"user\", \"content\": [{\"type\": \"tool_result\", "
        "\"tool_use_id\": \"t\", \"content\": \"2\"}]}]}",
        "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"hi\"}, "
        "{\"role\": \"assistant\", \"content\": \"\", \"reasoning_content\": \"hm\", \"tool_calls\": "
        "[{\"id\": \"t\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
        "\"{\\\"a\\\":1}\"}}]}, {\"role\": \"tool\", \"tool_call_id\": \"t\", \"content\": \"2\"}]");
    expect_messages(
        ask_read_responses,
        "{\"instructions\": \"Be brief.\", \"input\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"input_text\", \"text\": \"hi\"}]}, {\"type\": \"function_call\", \"call_id\": \"c\", \"name\": "
        "\"f\", \"arguments\": \"{}\"}, {\"type\": \"function_call_output\", \"call_id\": \"c\", "
        "\"output\": \"2\"}]}",
        "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"hi\"}, "
        "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"id\": \"c\", \"type\": "
        "\"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}]}, {\"role\": \"tool\", "
        "\"tool_call_id\": \"c\", \"content\": \"2\"}]");
}

static void test_embeddings(void **state) {
    (void)state;
    asked q = expect_read(ask_read_embeddings,
                          "{\"input\": [\"a\"], \"encoding_format\": \"base64\", \"dimensions\": 3}");
    assert_true(q.a.embeds && q.a.base64 && q.a.dimensions == 3 && q.a.best_of == 1);
    forget(&q);
}

/* ---- what is refused ---- */

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        reader read;
        const char *body, *param, *words;
    } cases[] = {
        {ask_read_chat, "{}", "messages", "at least one message"},
        {ask_read_chat, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"max_tokens\": 1.5}",
         "max_tokens", "whole number"},
        {ask_read_chat, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\", \"audio\": {}}]}",
         "messages[0].audio", "unrecognized"},
        {ask_read_chat,
         "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"grammar\": \"root ::= \\\"a\\\"\", "
         "\"json_schema\": {}}",
         NULL, "second shape"},
        {read_messages, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "max_tokens", "given"},
        {read_messages,
         "{\"max_tokens\": 5, \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", "
         "\"text\": \"x\", \"strange\": 1}]}]}",
         "messages[0].strange", "unrecognized"},
        {read_messages,
         "{\"max_tokens\": 5, \"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}",
         "messages[0]", "text alone"},
        {ask_read_responses, "{\"input\": [{\"type\": \"item_reference\"}]}", "input[0]", "function_call"},
        {ask_read_responses, "{\"input\": \"x\", \"previous_response_id\": \"r\"}", "previous_response_id",
         "not kept"},
        {ask_read_responses, "{\"input\": \"x\", \"max_tokens\": 0, \"max_output_tokens\": 1}", "max_tokens",
         "two names"},
        {ask_read_embeddings, "{\"input\": {}}", "input", "must be a string"},
        {ask_read_completion, "{\"prompt\": \"x\", \"best_of\": 2, \"stream\": true}", "best_of",
         "cannot be streamed"},
        {ask_read_completion, "{\"prompt\": \"x\", \"max_token\": 2}", "max_token",
         "; did you mean 'max_tokens'?"},
        {ask_read_chat,
         "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"stream_options\": "
         "{\"include_usages\": true}}",
         "stream_options.include_usages", "; did you mean 'stream_options.include_usage'?"},
        {ask_read_chat, "{\"messages\": [{\"role\": \"asistant\", \"content\": \"x\"}]}", "messages[0].role",
         "; did you mean 'assistant'?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *body = parse(cases[i].body);
        ask a = {0};
        api_error e = {0};
        if (cases[i].read(&a, body, &e))
            fail_msg("%s is read", cases[i].body);
        assert_int_equal(api_error_status(&e), 400);
        if (!strstr(e.message, cases[i].words) || (cases[i].param && strcmp(e.param, cases[i].param) != 0))
            fail_msg("%s: %s: %s", cases[i].body, e.param, e.message);
        ask_free(&a);
        json_decref(body);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_completion),
                                       cmocka_unit_test(test_conversations),
                                       cmocka_unit_test(test_embeddings), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
