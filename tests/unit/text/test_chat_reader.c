/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers taken apart: what a family's own template writes of a call reads back as that call, the pieces of
 * any stream add up to the plain answer, and what is no call stays text.
 */
#include "text/chat_reader.h"

#include "text/chat_parts.h"
#include "text/chat_reader_parts.h"
#include "text_fixture.h"

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Weather.\", "
    "\"parameters\": {"
    "\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"days\": {\"type\": "
    "\"integer\"}, "
    "\"hours\": {\"type\": \"array\"}, \"where\": {\"type\": \"object\"}, \"now\": {\"type\": \"boolean\"}, "
    "\"either\": {\"type\": [\"string\", \"number\", \"null\"]}}}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"now\", \"description\": \"Time.\", \"parameters\": "
    "{\"type\": "
    "\"object\", \"properties\": {}}}}]";

static json_t *tools;

static json_t *read_json(const char *text) {
    json_t *json;
    nib_error err = {""};
    if (json_read(&json, text, strlen(text), "test", &err) != NIB_OK)
        fail_msg("%s: %s", text, err.text);
    return json;
}

static int read_tools(void **state) {
    (void)state;
    tools = read_json(tools_text);
    return 0;
}

static int drop_tools(void **state) {
    (void)state;
    json_decref(tools);
    return 0;
}

static chat *open_family(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "golden/text/families/%s.jinja", name);
    mapfile m = fixture_file(path);
    chat *c;
    nib_error err = {""};
    if (chat_open(&c, (strview){(const char *)m.bytes, m.size}, strview_of("<s>"), strview_of("</s>"),
                  &err) != NIB_OK)
        fail_msg("%s: %s", name, err.text);
    mapfile_close(&m);
    return c;
}

static chat_prompt render(const chat *c, const char *messages, bool prompt) {
    json_t *json = read_json(messages);
    chat_prompt out;
    nib_error err = {""};
    const chat_request q = {.messages = json, .tools = tools, .no_generation_prompt = !prompt};
    if (chat_render(c, &q, &out, &err) != NIB_OK)
        fail_msg("%s", err.text);
    json_decref(json);
    return out;
}

static chat_answer read_plain(const chat *c, const json_t *offered, const chat_prompt *prompt,
                              const char *text) {
    chat_answer a;
    nib_error err = {""};
    if (chat_read(c, offered, prompt, text, strlen(text), &a, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return a;
}

/* "text|reasoning|name(arguments)..." */
static char *summary(const chat_answer *a) {
    char *out = malloc(8192);
    int n = snprintf(out, 8192, "%s|%s|", a->text, a->reasoning);
    for (size_t i = 0; i < a->n_calls; i++)
        n += snprintf(out + n, 8192 - (size_t)n, "%s(%s)", a->calls[i].name, a->calls[i].arguments);
    return out;
}

/* ---- round trips ---- */

static const struct {
    const char *family, *format, *thinking;
    size_t n_calls; /* of one message */
} families[] = {
    {"hermes", "hermes", "<think>", 2},
    {"qwen3-coder", "qwen3-coder", "<think>", 2},
    {"gemma4", "gemma4", "<|channel>thought", 2},
    {"llama3", "llama3", NULL, 1},
    {"harmony", "harmony", "analysis", 1},
    {"glm", "glm", "<think>", 2},
    {"deepseek-v3.1", "deepseek-v3.1", "<think>", 2},
    {"deepseek-v4", "deepseek-v4", "<think>", 2},
    {"mistral", "mistral", "[THINK]", 2},
    {"kimi", "kimi", "<think>", 2},
    {"minimax", "minimax", "<think>", 2},
};

#define N_FAMILIES (sizeof families / sizeof *families)

static void families_are_known_by_what_they_write(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        chat *c = open_family(families[i].family);
        const char *format = chat_call_format(c), *thinking = chat_reasoning_marker(c);
        if (!format || strcmp(format, families[i].format) != 0)
            fail_msg("%s: %s", families[i].family, format ? format : "no format");
        if (families[i].thinking)
            assert_string_equal(thinking, families[i].thinking);
        else
            assert_null(thinking);
        chat_close(c);
    }
}

#define ASKED "[{\"role\": \"user\", \"content\": \"Where?\"}"
#define CALL_ONE                                                                                             \
    "{\"id\": \"abcdefgh1\", \"type\": \"function\", \"function\": {\"name\": \"get_weather\", "             \
    "\"arguments\": "                                                                                        \
    "{\"city\": \"S\\u00e3o <b> \\\"Paulo\\\"\\n2\", \"days\": 2, \"hours\": [1, -2.5, {\"a\": []}], "       \
    "\"where\": {\"lat\": {\"deg\": 1}, \"ok\": true}, \"now\": false}}}"
#define CALL_TWO                                                                                             \
    "{\"id\": \"abcdefgh2\", \"type\": \"function\", \"function\": {\"name\": \"now\", \"arguments\": {}}}"

/* What the template writes of the answer: behind the conversation before it, without the generation prompt.
 */
static char *written(const chat *c, const char *answer, chat_prompt *prompt) {
    char messages[2048];
    *prompt = render(c, ASKED "]", true);
    chat_prompt base = render(c, ASKED "]", false);
    snprintf(messages, sizeof messages, ASKED ", %s]", answer);
    chat_prompt all = render(c, messages, false);
    size_t same = 0;
    while (same < base.n && base.text[same] == all.text[same])
        same++;
    const char *opening = prompt->n > base.n ? prompt->text + base.n : "";
    size_t n = 0; /* what the prompt has of it already */
    while (opening[n] && opening[n] == all.text[same + n])
        n++;
    while (opening[n] && n > 0 && !strchr(">\n", opening[n - 1])) /* a marker in part is none */
        n--;
    if (opening[n]) /* the prompt opens a reasoning that this answer has not: it is read as if it had none */
        prompt->n = base.n + n;
    char *text = strdup(all.text + same + n);
    chat_prompt_free(&base);
    chat_prompt_free(&all);
    return text;
}

static void check_call(const struct chat_answer_call *call, const char *sent) {
    json_t *expected = read_json(sent), *function = json_object_get(expected, "function");
    json_t *arguments = read_json(call->arguments);
    assert_string_equal(call->name, json_string_value(json_object_get(function, "name")));
    if (!json_equal(arguments, json_object_get(function, "arguments")))
        fail_msg("%s", call->arguments);
    json_decref(arguments);
    json_decref(expected);
}

static void calls_read_back(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        chat *c = open_family(families[i].family);
        for (size_t reasoned = 0; reasoned < 2; reasoned++) {
            char answer[1024];
            chat_prompt prompt;
            snprintf(answer, sizeof answer,
                     "{\"role\": \"assistant\", \"content\": \"\"%s, \"tool_calls\": [" CALL_ONE "%s]}",
                     reasoned ? ", \"reasoning_content\": \"I must\\nlook.\"" : "",
                     families[i].n_calls > 1 ? ", " CALL_TWO : "");
            char *text = written(c, answer, &prompt);
            chat_answer a = read_plain(c, tools, &prompt, text);
            if (a.n_calls != families[i].n_calls)
                fail_msg("%s: %zu calls in %s", families[i].family, a.n_calls, text);
            check_call(&a.calls[0], CALL_ONE);
            if (a.n_calls > 1)
                check_call(&a.calls[1], CALL_TWO);
            if (families[i].thinking)
                assert_string_equal(a.reasoning, reasoned ? "I must\nlook." : "");
            chat_answer_free(&a);
            chat_prompt_free(&prompt);
            free(text);
        }
        chat_close(c);
    }
}

/* ---- streams ---- */

typedef struct sums {
    char text[4096], reasoning[4096], calls[4096];
    bool open; /* a call's parenthesis */
} sums;

static nib_status add(void *context, const chat_piece *given, nib_error *err) {
    sums *s = context;
    (void)err;
    char *to = given->kind == CHAT_PIECE_TEXT        ? s->text
               : given->kind == CHAT_PIECE_REASONING ? s->reasoning
                                                     : s->calls;
    assert_true(given->text.n > 0 && strlen(to) + given->text.n + 3 < sizeof s->text);
    if (given->kind == CHAT_PIECE_CALL && s->open)
        strcat(s->calls, ")");
    strncat(to, given->text.p, given->text.n);
    if (given->kind == CHAT_PIECE_CALL)
        strcat(s->calls, "(");
    s->open |= given->kind == CHAT_PIECE_CALL;
    return NIB_OK;
}

/* The answer pushed in pieces of N bytes; how many calls broke off. */
static size_t stream(const chat *c, const json_t *offered, bool calls_too, const char *text, size_t n,
                     sums *out) {
    chat_reader *r;
    memset(out, 0, sizeof *out);
    assert_int_equal(chat_reader_open(&r, c, offered, NULL, add, out, NULL), NIB_OK);
    if (calls_too)
        chat_reader_stream_calls(r);
    for (size_t at = 0, all = strlen(text); at < all; at += n)
        assert_int_equal(chat_reader_push(r, text + at, at + n < all ? n : all - at, NULL), NIB_OK);
    assert_int_equal(chat_reader_end(r, NULL), NIB_OK);
    const size_t n_broken = r->n_broken;
    chat_reader_close(r);
    if (out->open)
        strcat(out->calls, ")");
    return n_broken;
}

/* What every family's readers make of texts, whatever the size of the pieces. */
static const struct {
    const char *family, *text, *expected;
} answers[] = {
    {"hermes", "Hello  \nthere\n", "Hello  \nthere\n||"},
    {"hermes", "", "||"},
    {"hermes", "<think>\nso\n</think>\n\nHello", "Hello|so|"},
    {"hermes", "<think></think>Hello", "Hello||"},
    {"hermes", "</think>\n\nHello", "Hello||"},
    {"hermes", "a </think> b", "a </think> b||"},
    {"hermes", "I look.\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
     "I look.||now({})"},
    {"hermes",
     "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call>",
     "||now({})now({})"},
    {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"</tool_call>\"}}</tool_call>",
     "||now({\"a\": \"</tool_call>\"})"},
    {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
     "||now({\"a\": 1})"},
    {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}",
     "||now({})"}, /* ends without its marker */
    {"hermes", "<tool_call>{\"name\": \"now\", \"argu", "<tool_call>{\"name\": \"now\", \"argu||"},
    {"hermes", "x <tool_call>\n{oops}\n</tool_call> y", "x <tool_call>\n{oops}\n</tool_call> y||"},
    {"hermes", "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>z",
     "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>z||"},
    {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": [1]}</tool_call>",
     "<tool_call>{\"name\": \"now\", \"arguments\": [1]}</tool_call>||"},
    {"hermes", "a < b <tool b <tool_call", "a < b <tool b <tool_call||"},
    {"hermes", "<think>I could <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call> it</think>No.",
     "No.|I could <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call> it|"},
    {"hermes", "<think>I go.\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
     "|I go.|now({})"},
    {"hermes", "<think>never closed", "|never closed|"},
    {"hermes", "<think>so</think>Hi<think>and</think> you", "Hiyou|soand|"},
    {"qwen3-coder",
     "<tool_call>\n<function=get_weather>\n<parameter=city>\n1\n</parameter>\n<parameter=days>\n2\n"
     "</parameter>\n</function>\n</tool_call>",
     "||get_weather({\"city\": \"1\", \"days\": 2})"},
    {"qwen3-coder", "<function=now>\n</function>\n</tool_call>\nSo.", "So.||now({})"}, /* opens no section */
    {"qwen3-coder",
     "<tool_call>\n<function=get_weather>\n<parameter=either>\n5\n</parameter>\n<parameter=city>\n"
     "a\n</parameter> b\n</parameter>\n</function>\n</tool_call>",
     "||get_weather({\"either\": 5, \"city\": \"a\\n</parameter> b\"})"},
    {"qwen3-coder",
     "<tool_call>\n<function=get_weather>\n<parameter=days>\nmany\n</parameter>\n</function>\n</tool_call>",
     "||get_weather({\"days\": \"many\"})"},
    {"qwen3-coder",
     "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n1\n</parameter>\n</function>"
     "\n</tool_call>",
     "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n1\n</parameter>\n</"
     "function>\n</tool_call>"
     "||"},
    {"gemma4",
     "Hi<|tool_call>call:get_weather{city:<|\"|>a,b}<|\"|>,hours:[1,<|\"|>x<|\"|>],where:{a:{}},now:true}<"
     "tool_call|>",
     "Hi||get_weather({\"city\": \"a,b}\", \"hours\": [1, \"x\"], \"where\": {\"a\": {}}, \"now\": true})"},
    {"gemma4", "<|tool_call>call:f{a:oops}<tool_call|>", "<|tool_call>call:f{a:oops}<tool_call|>||"},
    {"gemma4", "<|channel>thought\nso\n<channel|>Hi", "Hi|so|"},
    {"llama3", "{\"name\": \"now\", \"parameters\": {}}", "||now({})"},
    {"llama3", "<|python_tag|>{\"name\": \"now\", \"parameters\": {\"a\": 1}}", "||now({\"a\": 1})"},
    {"llama3", "{\"name\": \"unknown\", \"parameters\": {}}",
     "{\"name\": \"unknown\", \"parameters\": {}}||"},
    {"llama3", "{\"a\": 1} is JSON", "{\"a\": 1} is JSON||"},
    {"llama3", "See {\"name\": \"now\", \"parameters\": {}}",
     "See {\"name\": \"now\", \"parameters\": {}}||"},
    {"llama3", "{not JSON", "{not JSON||"},
    {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {\"\": 1, \"\": 2}}</tool_call>",
     "||now({\"\": 1, \"\": 2})"},
    {"harmony", "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
     "Hi.|so|"},
    {"harmony", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"a\":1}<|call|>",
     "||now({\"a\":1})"},
    {"harmony", " to=functions.now<|channel|>commentary json<|message|>{}", "||now({})"},
    {"harmony", "<|channel|>commentary to=functions.now<|message|>oops", "oops||"},
    {"harmony",
     "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary "
     "json<|message|>{}<|call|>",
     "I look.||now({})"},
    {"harmony", " to=functions.now<|channel|>commentary<|message|>{\"a\":\"<|end|>\"}<|call|>",
     "||now({\"a\":\"<|end|>\"})"},
    {"harmony", " to=functions.now<|channel|>commentary<|message|>{\"a\":\"<|end|>\"}",
     "||now({\"a\":\"<|end|>\"})"},
    {"harmony",
     " to=functions.now<|channel|>commentary<|message|>{\"a\":\"<|end|><|start|>assistant<|channel|>final"
     "<|message|>So.",
     "{\"a\":\"So.||"},
    {"harmony", " to=functions.now<|channel|>commentary<|message|>{\"a\":1} so<|end|>", "{\"a\":1} so||"},
    {"harmony", "no harmony at all", "no harmony at all||"},
    {"glm",
     "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>x</arg_value>\n<arg_key>hours</"
     "arg_key>\n<arg_value>"
     "[1]</arg_value>\n</tool_call>",
     "||get_weather({\"city\": \"x\", \"hours\": [1]})"},
    {"glm", "<tool_call>now</tool_call>", "||now({})"},
    {"deepseek-v3.1",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>"
     "now"
     "<｜tool▁sep｜>{\"a\":1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "||now({})now({\"a\":1})"},
    {"deepseek-v4",
     "Well.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
     "string=\"true\">1"
     "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">[1]</｜DSML｜parameter>\n"
     "</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
     "Well.||f({\"a\": \"1\", \"b\": [1]})"},
    {"mistral", "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{\"a\": [1]}",
     "||now({})now({\"a\": [1]})"},
    {"mistral",
     "[TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}, \"id\": \"abcdefghi\"}, {\"name\": \"now\", "
     "\"arguments\": {}}]",
     "||now({})now({})"},
    {"mistral", "[THINK]so[/THINK]Hi [TOOL_CALLS]", "Hi [TOOL_CALLS]|so|"},
    {"kimi",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_"
     "call_end|>"
     "<|tool_calls_section_end|>",
     "||now({})"},
    {"minimax",
     "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"days\">3</parameter>\n</invoke>\n"
     "<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
     "||get_weather({\"days\": 3})now({})"},
};

static void streams_add_up_to_the_plain_answer(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        chat *c = open_family(answers[i].family);
        chat_answer a = read_plain(c, tools, NULL, answers[i].text);
        char *plain = summary(&a);
        if (strcmp(plain, answers[i].expected) != 0)
            fail_msg("%s: %s\n  gives    %s\n  expected %s", answers[i].family, answers[i].text, plain,
                     answers[i].expected);
        for (size_t k = 0, n = 1; n < 40; n += k % 2 ? 0 : n < 8 ? 1 : 7, k++) { /* each size twice */
            sums s;
            char text[sizeof s];
            const size_t n_broken = stream(c, tools, k % 2, answers[i].text, n, &s);
            snprintf(text, sizeof text, "%s|%s|%s", s.text, s.reasoning, s.calls);
            if (n_broken == 0 && strcmp(text, plain) != 0)
                fail_msg("%s in pieces of %zu bytes: %s\n  gives    %s\n  expected %s", answers[i].family, n,
                         answers[i].text, text, plain);
        }
        free(plain);
        chat_answer_free(&a);
        chat_close(c);
    }
}

/* ---- what a reader is told ---- */

static void without_tools_calls_are_text(void **state) {
    (void)state;
    static const char text[] =
        "<think>so</think><tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    chat *c = open_family("hermes");
    chat_answer a = read_plain(c, NULL, NULL, text);
    assert_string_equal(a.text, text + strlen("<think>so</think>"));
    assert_string_equal(a.reasoning, "so");
    assert_int_equal(a.n_calls, 0);
    chat_answer_free(&a);
    chat_close(c);
}

static void the_prompt_says_where_the_answer_begins(void **state) {
    (void)state;
    chat *c = open_family("qwen3-coder"); /* its prompt ends with <think> */
    chat_prompt prompt = render(c, ASKED "]", true);
    static const char *const texts[] = {"so\n</think>\n\nHi", "<think>\nso\n</think>\n\nHi"};
    for (size_t i = 0; i < 2; i++) {
        chat_answer a = read_plain(c, tools, &prompt, texts[i]);
        assert_string_equal(a.text, "Hi");
        assert_string_equal(a.reasoning, "so");
        chat_answer_free(&a);
    }
    chat_prompt_free(&prompt);
    /* a user who ends with the marker begins no reasoning */
    prompt = render(c, "[{\"role\": \"user\", \"content\": \"<think>\"}]", false);
    prompt.n = (size_t)(strstr(prompt.text, "<think>") - prompt.text) + strlen("<think>");
    chat_answer a = read_plain(c, tools, &prompt, "Hi");
    assert_string_equal(a.text, "Hi");
    chat_answer_free(&a);
    chat_prompt_free(&prompt);
    chat_close(c);
}

static void ids_are_the_models(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"kimi", "<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|>{}<|tool_call_end|>",
         "functions.now:3"},
        {"mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", "abcdefghi"},
        {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>", ""},
    };
    for (size_t i = 0; i < 3; i++) {
        chat *c = open_family(cases[i][0]);
        chat_answer a = read_plain(c, tools, NULL, cases[i][1]);
        assert_int_equal(a.n_calls, 1);
        assert_string_equal(a.calls[0].name, "now");
        assert_string_equal(a.calls[0].id, cases[i][2]);
        chat_answer_free(&a);
        chat_close(c);
    }
}

/* Text goes out as it comes: only what may become a marker is held. */
static void text_is_not_held_back(void **state) {
    (void)state;
    chat *c = open_family("hermes");
    sums s = {0};
    chat_reader *r;
    assert_int_equal(chat_reader_open(&r, c, tools, NULL, add, &s, NULL), NIB_OK);
    chat_reader_push(r, "Hello the", 9, NULL);
    assert_string_equal(s.text, "Hello the");
    chat_reader_push(r, "re <tool", 8, NULL);
    assert_string_equal(s.text, "Hello there");
    chat_reader_push(r, "s> are", 6, NULL);
    assert_string_equal(s.text, "Hello there <tools> are");
    chat_reader_push(r, "<think>wh", 9, NULL);
    assert_true(chat_reader_in_reasoning(r));
    assert_string_equal(s.reasoning, "wh");
    chat_reader_close(r);
    chat_close(c);
}

/* Pieces of answers that stream their calls, and what has been given after each. */
static const struct {
    const char *family, *pieces[8], *given[8];
} streamed[] = {
    {"hermes",
     {"<tool_call>\n{\"name\": \"get_weather\", \"argu", "ments\": {\"ci", "ty\": \"Li", "ma\"}",
      "}\n</tool_call>"},
     {"", "get_weather({\"ci", "get_weather({\"city\": \"Li", "get_weather({\"city\": \"Lima\"",
      "get_weather({\"city\": \"Lima\"}"}},
    {"qwen3-coder",
     {"<tool_call>\n<function=get_weather>\n", "<parameter=days>\n2\n</parameter>", "\n<parameter=city>\nLi",
      "ma\n</parameter>\n</function>", "\n</tool_call>"},
     {"get_weather({", "get_weather({", "get_weather({\"days\": 2, ",
      "get_weather({\"days\": 2, \"city\": \"Lima\"}", "get_weather({\"days\": 2, \"city\": \"Lima\"}"}},
    {"gemma4",
     {"<|tool_call>call:get_weather{city:<|\"|>Li", "ma<|\"|>,days:2", "}<tool_call|>"},
     {"get_weather({\"city\": ", "get_weather({\"city\": \"Lima\", \"days\": ",
      "get_weather({\"city\": \"Lima\", \"days\": 2}"}},
    {"harmony",
     {"<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"a\"", ":1", "}<|call|>"},
     {"now({\"a\"", "now({\"a\":1", "now({\"a\":1}"}},
    {"mistral",
     {"[TOOL_CALLS]now[ARGS]{\"a\": [", "1]}[TOOL_CALLS]", "now[ARGS]{", "}"},
     {"now({\"a\": [", "now({\"a\": [1]}", "now({\"a\": [1]})now({", "now({\"a\": [1]})now({}"}},
    {"llama3", {"{\"name\": \"now\", ", "\"parameters\": {", "}}"}, {"", "now({", "now({}"}},
    /* one that breaks off stays, what follows is text; its last brace comes only when the call is one */
    {"hermes",
     {"<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 1}", "\n</tool_call>"},
     {"now({\"a\": 1", "now({\"a\": 1"}},
    {"hermes",
     {"<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": [1", "}} </tool_call> so"},
     {"now({\"a\": [1", "now({\"a\": [1"}},
    {"harmony",
     {" to=functions.now<|channel|>commentary<|message|>{\"a\":1}", " so<|end|>"},
     {"now({\"a\":1", "now({\"a\":1"}},
};

static void calls_stream(void **state) {
    (void)state;
    static const char *const left[] = {"}\n</tool_call>", "}} </tool_call> so", "} so"};
    const size_t n = sizeof streamed / sizeof *streamed, n_sound = n - sizeof left / sizeof *left;
    for (size_t i = 0; i < n; i++) {
        chat *c = open_family(streamed[i].family);
        sums s = {0};
        chat_reader *r;
        assert_int_equal(chat_reader_open(&r, c, tools, NULL, add, &s, NULL), NIB_OK);
        chat_reader_stream_calls(r);
        for (size_t k = 0; streamed[i].pieces[k]; k++) {
            const char *text = streamed[i].pieces[k];
            assert_int_equal(chat_reader_push(r, text, strlen(text), NULL), NIB_OK);
            if (strcmp(s.calls, streamed[i].given[k]) != 0)
                fail_msg("%s, %s: %s\n  expected %s", streamed[i].family, text, s.calls,
                         streamed[i].given[k]);
        }
        assert_int_equal(chat_reader_end(r, NULL), NIB_OK);
        assert_int_equal(r->n_broken, i >= n_sound);
        assert_string_equal(s.text, r->n_broken ? left[i - n_sound] : "");
        chat_reader_close(r);
        chat_close(c);
    }
}

static nib_status count(void *context, const chat_piece *given, nib_error *err) {
    (void)err;
    *(size_t *)context += given->kind == CHAT_PIECE_ARGUMENTS ? given->text.n : 0;
    return NIB_OK;
}

/* Looks at a growing call cost a fixed multiple of its text. */
static void long_calls_stream_quickly(void **state) {
    (void)state;
    static const char head[] = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"";
    chat *c = open_family("hermes");
    chat_reader *r;
    size_t given = 0;
    assert_int_equal(chat_reader_open(&r, c, tools, NULL, count, &given, NULL), NIB_OK);
    chat_reader_stream_calls(r);
    chat_reader_push(r, head, strlen(head), NULL);
    const double start = cpu_seconds();
    for (int k = 0; k < 100000; k++)
        chat_reader_push(r, "word ", 5, NULL);
    assert_true(cpu_seconds() - start < 10);
    assert_true(given > 490000);
    chat_reader_close(r);
    chat_close(c);
}

static void hostile_answers_are_quick(void **state) {
    (void)state;
    static const char *const units[] = {"<tool_call>",
                                        "<tool_call>{",
                                        "</tool_call>",
                                        "{\"a\":[",
                                        "<think>",
                                        "<",
                                        "<arg_key>a</arg_key><arg_value>",
                                        "<tool_call>now<arg_key>a</arg_key><arg_value></tool_call>",
                                        "[TOOL_CALLS]now[ARGS]{",
                                        "}",
                                        "\"",
                                        "<|channel|>x<|message|>",
                                        "<function=f><parameter=a></parameter>"};
    static char text[60001];
    for (size_t f = 0; f < N_FAMILIES; f++) {
        chat *c = open_family(families[f].family);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            chat_answer a;
            chat_reader *r;
            for (size_t k = 0; k < sizeof text - 1; k++)
                text[k] = units[i][k % strlen(units[i])];
            const double start = cpu_seconds();
            assert_int_equal(chat_read(c, tools, NULL, text, sizeof text - 1, &a, NULL), NIB_OK);
            chat_answer_free(&a);
            (void)r;
            if (cpu_seconds() - start > 2)
                fail_msg("%s: %s takes %.1f s", families[f].family, units[i], cpu_seconds() - start);
        }
        chat_close(c);
    }
}

static void failing_memory_is_said(void **state) {
    (void)state;
    static const char text[] =
        "<think>so</think>Hi\n<tool_call>{\"name\": \"now\", \"arguments\": \"{}\"}</tool_call>";
    mapfile m = fixture_file("golden/text/families/hermes.jinja");
    for (long k = 0;; k += 1 + k / 20) {
        chat *c = NULL;
        chat_answer a = {0};
        mem_fail_after(k);
        nib_status status = chat_open(&c, (strview){(const char *)m.bytes, m.size}, strview_of("<s>"),
                                      strview_of("</s>"), NULL);
        if (status == NIB_OK)
            status = chat_read(c, tools, NULL, text, sizeof text - 1, &a, NULL);
        mem_fail_after(-1);
        chat_answer_free(&a);
        chat_close(c);
        if (status == NIB_OK)
            break;
        assert_int_equal(status, NIB_NO_MEMORY);
    }
    mapfile_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_known_by_what_they_write),
        cmocka_unit_test(calls_read_back),
        cmocka_unit_test(streams_add_up_to_the_plain_answer),
        cmocka_unit_test(without_tools_calls_are_text),
        cmocka_unit_test(the_prompt_says_where_the_answer_begins),
        cmocka_unit_test(ids_are_the_models),
        cmocka_unit_test(text_is_not_held_back),
        cmocka_unit_test(calls_stream),
        cmocka_unit_test(long_calls_stream_quickly),
        cmocka_unit_test(hostile_answers_are_quick),
        cmocka_unit_test(failing_memory_is_said),
    };
    return cmocka_run_group_tests(tests, read_tools, drop_tools);
}
