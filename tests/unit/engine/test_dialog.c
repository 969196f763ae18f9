/* SPDX-License-Identifier: Apache-2.0
 *
 * The API's conversations in full: any template, tools, answers taken apart, control tokens as text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tiny_engine.h"

static const char hermes[] =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for c in m.tool_calls or [] "
    "%}<tool_call>\n"
    "{\"name\": {{ c.function.name | tojson }}, \"arguments\": {{ c.function.arguments | tojson "
    "}}}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{{ '<think>' if x }}{{ tools | length if tools else '' }}";
static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"now\", \"parameters\": {}}}]";

static char *text_of(nib_engine *e, const int32_t *ids, size_t n) {
    char *text;
    size_t bytes;
    assert_int_equal(nib_detokenize(e, ids, n, &text, &bytes, NULL), NIB_OK);
    return text;
}

static void templates_of_ones_own(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){0}, NULL);
    nib_chat *own, *other;
    nib_error err = {""};
    assert_int_equal(nib_chat_open(&own, e, NULL, &err), NIB_OK);
    assert_int_equal(nib_chat_open(&other, e, hermes, &err), NIB_OK);
    nib_chat_info info = {.size = sizeof info};
    assert_int_equal(nib_chat_get_info(other, &info, NULL), NIB_OK);
    assert_string_equal(info.call_format, "hermes");
    assert_null(info.reasoning);
    const nib_conversation c = {.size = sizeof c,
                                .messages = "[{\"role\": \"user\", \"content\": \"the <|im_end|>\"}]",
                                .tools = tools};
    int32_t *ids;
    size_t n, ends = 0;
    assert_int_equal(nib_chat_render(other, &c, &ids, &n, NULL, &err), NIB_OK);
    char *text = text_of(e, ids, n);
    assert_non_null(strstr(text, "the <|im_end|>")); /* text; the template's own is a token, left out here */
    for (size_t i = 0; i < n; i++)
        ends += ids[i] == 2;
    assert_int_equal(ends, 1);
    nib_free(text);
    nib_free(ids);
    nib_chat_close(own);
    nib_chat_close(other);
    nib_close(e);
}

typedef struct sums {
    char text[200], reasoning[200], calls[200];
} sums;

static void add(void *context, const nib_piece *piece) {
    sums *s = context;
    char *to = piece->kind == NIB_PIECE_TEXT        ? s->text
               : piece->kind == NIB_PIECE_REASONING ? s->reasoning
                                                    : s->calls;
    assert_int_equal(piece->size, sizeof *piece);
    strncat(to, piece->text, piece->text_bytes);
}

static void answers_are_taken_apart(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){0}, NULL);
    nib_chat *d;
    nib_reader *r;
    int32_t *ids;
    size_t n;
    sums s = {.text = ""};
    assert_int_equal(nib_chat_open(&d, e, hermes, NULL), NIB_OK);
    const nib_conversation c = {
        .size = sizeof c, .messages = "[{\"role\": \"user\", \"content\": \"a\"}]", .tools = tools};
    assert_int_equal(nib_chat_render(d, &c, &ids, &n, &r, NULL), NIB_OK);
    static const char written[] =
        "I look. <tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}}</tool_call>";
    for (size_t i = 0; i < sizeof written - 1; i++)
        assert_int_equal(nib_reader_push(r, written + i, 1, add, &s, NULL), NIB_OK);
    assert_false(nib_reader_in_reasoning(r));
    assert_int_equal(nib_reader_end(r, add, &s, NULL), NIB_OK);
    assert_string_equal(s.text, "I look.");
    assert_string_equal(s.calls, "now{\"a\": 1}");
    nib_reader_close(r);
    nib_free(ids);
    nib_chat_close(d);
    nib_close(e);
}

static void what_is_wrong_is_said(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){0}, NULL);
    nib_chat *d;
    nib_reader *r;
    int32_t *ids;
    size_t n;
    nib_error err = {""};
    assert_int_equal(nib_chat_open(&d, e, "{% if %}", &err), NIB_BAD_FILE);
    assert_null(d);
    assert_int_equal(nib_chat_open(&d, NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(
        nib_chat_open(&d, e, "{{ raise_exception('Not so') if messages[0].content == 'no' }}", &err), NIB_OK);
    static const struct {
        nib_conversation c;
        nib_status status;
        const char *words;
    } cases[] = {
        {{.messages = NULL}, NIB_BAD_ARGUMENT, "messages is NULL"},
        {{.messages = "["}, NIB_BAD_FILE, "messages: not valid JSON"},
        {{.messages = "[]"}, NIB_BAD_ARGUMENT, "without messages"},
        {{.messages = "[{\"role\": \"user\", \"content\": \"no\"}]"}, NIB_BAD_ARGUMENT, "Not so"},
        {{.messages = "[{\"role\": \"user\"}]", .tools = "{}"}, NIB_BAD_ARGUMENT, "tools are no list"},
        {{.messages = "[{\"role\": \"user\"}]", .variables = "1"}, NIB_BAD_ARGUMENT, "no object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_conversation c = cases[i].c;
        c.size = sizeof c;
        assert_int_equal(nib_chat_render(d, &c, &ids, &n, &r, &err), cases[i].status);
        assert_non_null(strstr(err.text, cases[i].words));
        assert_null(ids);
        assert_null(r);
    }
    assert_int_equal(nib_reader_push(NULL, "", 0, NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_false(nib_reader_in_reasoning(NULL));
    nib_reader_close(NULL);
    nib_chat_close(d);
    nib_chat_close(NULL);
    nib_close(e);
}

/* The text of an answer that must be TOKEN over and over. */
static size_t count_in_answer(nib_engine *e, int32_t token, bool control_text, const char *what) {
    const int32_t prompt[] = {70};
    const nib_token_bias bias[] = {{token, 100}};
    nib_request *request;
    nib_event event = {.size = sizeof event};
    size_t found = 0;
    const nib_request_options o = {.size = sizeof o,
                                   .prompt = prompt,
                                   .n_prompt = 1,
                                   .max_tokens = 3,
                                   .ignore_eos = true,
                                   .bias = bias,
                                   .n_bias = 1,
                                   .control_text = control_text};
    nib_error err = {""};
    if (nib_submit(e, &o, &request, &err) != NIB_OK)
        fail_msg("%s", err.text);
    while (event.kind != NIB_EVENT_END) {
        assert_int_equal(nib_next_event(request, &event, -1, NULL), NIB_OK);
        found += event.text_bytes && strstr(event.text, what) != NULL;
    }
    nib_release(request);
    return found;
}

static void control_tokens_are_told_when_asked(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){0}, NULL);
    int32_t *ids;
    size_t n;
    assert_int_equal(nib_tokenize(e, "<|im_start|>", 12, NIB_TOKENIZE_NO_BOS, &ids, &n, NULL), NIB_OK);
    assert_int_equal(n, 1);
    assert_int_equal(count_in_answer(e, ids[0], false, "<|im_start|>"), 0);
    assert_int_equal(count_in_answer(e, ids[0], true, "<|im_start|>"), 3);
    nib_free(ids);
    nib_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_of_ones_own),
        cmocka_unit_test(answers_are_taken_apart),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(control_tokens_are_told_when_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
