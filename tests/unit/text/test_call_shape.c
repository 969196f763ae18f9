/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of tools as grammars: a random text that the shape of a format allows is read back, by the format's
 * own reader, as calls of the tools that were offered, with arguments of their schemas.
 */
#include "guide_fixture.h"
#include "text/chat_parts.h"
#include "text/chat_reader.h"

#define TOOL(name, schema)                                                                                   \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"parameters\":" schema "}}"
#define ADD_SCHEMA                                                                                           \
    "{\"properties\":{\"a\":{\"type\":\"integer\"},\"how\":{\"enum\":[\"up\",\"5\"]},\"note\":{\"type\":"    \
    "\"string\"},\"either\":{\"type\":[\"string\",\"object\"],\"maxLength\":4},\"list\":{\"type\":"          \
    "\"array\",\"items\":"                                                                                   \
    "{\"type\":\"string\"},\"maxItems\":2},\"maybe\":{\"anyOf\":[{\"type\":\"number\",\"minimum\":3},{"      \
    "\"type\":\"string\","                                                                                   \
    "\"pattern\":\"^[0-9a-f]{1,3}$\"}]}},\"required\":[\"how\",\"a\"],\"additionalProperties\":false}"
#define TOOLS                                                                                                \
    "[" TOOL("add", ADD_SCHEMA) "," TOOL("now", "{\"type\":\"object\",\"additionalProperties\":false}") "]"

static uint32_t random_state = 11;

static uint32_t random_below(uint32_t n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

/* A vocabulary of bytes and the control tokens of all formats' marks, or without them. */
static void open_vocabulary(vocabulary *v, bool controls) {
    static const char *const marks[] = {"<|channel|>",   "<|message|>", "<|start|>",     "<|end|>",
                                        "<|constrain|>", "<|\"|>",      "<|tool_call>",  "<tool_call|>",
                                        "[TOOL_CALLS]",  "[ARGS]",      "</tool_call>",  "<tool_call>",
                                        "<|open|>",      "<|sep|>",     "]<]minimax[>[", "</arg_value>"};
    vocabulary_start(v);
    for (size_t i = 0; controls && i < sizeof marks / sizeof *marks; i++)
        fixture_add(&v->f, marks[i], TOKEN_CONTROL, 0);
    vocabulary_finish(v);
}

/* The byte of CLOSING behind what TEXT [n] ends with of it. */
static int32_t next_of(const char *closing, const char *text, size_t n) {
    for (size_t k = strlen(closing) - 1; k > 0; k--)
        if (k <= n && memcmp(text + n - k, closing, k) == 0)
            return (unsigned char)closing[k];
    return (unsigned char)closing[0];
}

/* A token of the mask: the end when it may come, NEXT, one of structure or a letter, or any. */
static int32_t pick(const vocabulary *v, const guide *g, const uint32_t *mask, int32_t next) {
    static const char usual[] = "</>ai1\"\n}] ,:x5";
    if (guide_can_end(g))
        return VOCABULARY_END;
    for (int32_t id = 256; (size_t)id < tokenizer_vocab(v->t) && random_below(64); id++)
        if (mask_has(mask, id) && tokenizer_is_control(v->t, id) && !tokenizer_is_end(v->t, id))
            return id; /* a mark */
    if (mask_has(mask, next) && random_below(24))
        return next;
    for (int tries = 0; tries < 40; tries++) {
        const int32_t id = (unsigned char)usual[random_below(sizeof usual - 1)];
        if (mask_has(mask, id))
            return id;
    }
    for (;;) {
        const int32_t id = (int32_t)random_below((uint32_t)tokenizer_vocab(v->t));
        if (mask_has(mask, id))
            return id;
    }
}

/* A text that PLAN allows behind START. */
static void random_text(const vocabulary *v, guide_plan *plan, const char *closing, const char *start,
                        char *out, size_t room) {
    guide *g = guide_of(plan);
    size_t n = strlen(start);
    memcpy(out, start, n);
    for (size_t i = 0; i < n; i++)
        assert_true(guide_accept(g, (unsigned char)start[i]));
    for (bool ended = false; !ended;) {
        const int32_t id = pick(v, g, guide_mask(g), next_of(closing, out, n));
        const strview word = tokenizer_piece(v->t, id, true);
        ended = id == VOCABULARY_END;
        assert_true(guide_accept(g, id));
        if (n + word.n >= room)
            fail_msg("no end: %.600s ... %.200s", out, out + n - 200);
        memcpy(out + n, word.p, ended ? 0 : word.n);
        n += ended ? 0 : word.n;
    }
    out[n] = 0;
    guide_close(g);
}

static size_t count_characters(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

/* ARGUMENTS keep to ADD_SCHEMA. */
static bool is_addition(const json_t *arguments) {
    const char *key;
    json_t *value;
    bool fits = json_object_get(arguments, "a") && json_object_get(arguments, "how");
    json_object_foreach((json_t *)arguments, key, value) {
        const char *text = json_string_value(value);
        size_t i;
        json_t *one;
        if (strcmp(key, "a") == 0)
            fits &= json_is_integer(value);
        else if (strcmp(key, "how") == 0)
            fits &= text && (strcmp(text, "up") == 0 || strcmp(text, "5") == 0);
        else if (strcmp(key, "note") == 0)
            fits &= text != NULL;
        else if (strcmp(key, "either") == 0)
            fits &= json_is_object(value) || (text && count_characters(text) <= 4);
        else if (strcmp(key, "maybe") == 0)
            fits &= text ? strspn(text, "0123456789abcdef") == strlen(text) && strlen(text) - 1 < 3
                         : json_is_number(value) && json_number_value(value) >= 3;
        else if (strcmp(key, "list") == 0)
            json_array_foreach(value, i, one) {
                fits &= json_is_string(one) && json_array_size(value) <= 2;
            }
        else
            fits = false;
    }
    return fits;
}

static void check_answer(const chat_format *f, const json_t *tools, const char *text) {
    chat *c;
    chat_answer answer;
    nib_error err = {""};
    const strview none = {0};
    assert_int_equal(chat_open(&c, strview_of("x"), none, none, &err), NIB_OK);
    c->format = f;
    assert_int_equal(chat_read(c, tools, NULL, text, strlen(text), &answer, &err), NIB_OK);
    if (answer.n_calls == 0 || answer.text[0])
        fail_msg("%s: not read as calls: %s", f->name, text);
    for (size_t i = 0; i < answer.n_calls; i++) {
        json_t *arguments;
        const char *given = answer.calls[i].arguments, *name = answer.calls[i].name;
        assert_int_equal(json_read(&arguments, given, strlen(given), "arguments", &err), NIB_OK);
        const bool fits = strcmp(name, "add") == 0
                              ? is_addition(arguments)
                              : strcmp(name, "now") == 0 && json_object_size(arguments) == 0;
        if (!fits)
            fail_msg("%s: %s(%s) of %s", f->name, name, given, text);
        json_decref(arguments);
    }
    chat_answer_free(&answer);
    chat_close(c);
}

/* What begins a call of a format in free text. */
static const char *start_of(const chat_format *f) {
    return f->shape == CHAT_HARMONY ? " to=functions."
           : f->shape == CHAT_BARE  ? "{\"name\": \""
           : f->section_open        ? f->section_open
                                    : f->call_open;
}

/* What ends a text in a format. */
static const char *closing_of(const chat_format *f) {
    return f->quote ? f->quote : !f->param_close ? "\"" : f->value_lines ? "\n</parameter>" : f->param_close;
}

static void test_what_is_allowed_reads_back(void **state) {
    (void)state;
    json_t *tools = json_loads(TOOLS, 0, NULL);
    for (int controls = 0; controls < 2; controls++) {
        vocabulary v;
        open_vocabulary(&v, controls);
        for (const chat_format *f = chat_formats; f->name; f++)
            for (int is_free = 0; is_free < 2; is_free++) {
                static char text[1 << 16], shape[4096];
                snprintf(shape, sizeof shape, "{\"tools\":" TOOLS ",\"format\":\"%s\",\"free\":%s}", f->name,
                         is_free ? "true" : "false");
                guide_plan *plan = plan_of(&v, GUIDE_CALL, shape, "");
                for (int k = 0; k < 12; k++) {
                    random_text(&v, plan, closing_of(f),
                                is_free || f->shape == CHAT_HARMONY ? start_of(f) : "", text, sizeof text);
                    check_answer(f, tools, text);
                }
                guide_plan_release(plan);
            }
        vocabulary_close(&v);
    }
    json_decref(tools);
}

static void check(const vocabulary *v, const char *shape, const char *text, bool allowed) {
    guide_plan *plan = plan_of(v, GUIDE_CALL, shape, "");
    if (plan_allows(plan, text) != allowed)
        fail_msg("%s: %s is %s", shape, text, allowed ? "refused" : "allowed");
    guide_plan_release(plan);
}

#define HERMES(call)  "<tool_call>\n" call "\n</tool_call>"
#define ADD           "{\"name\": \"add\", \"arguments\": {\"a\": 7, \"how\":\"up\"}}"
#define NOW           "{\"name\": \"now\", \"arguments\": {}}"
#define CODER(inside) "<tool_call>\n<function=add>" inside "\n</function>\n</tool_call>"
#define A_AND_HOW     "\n<parameter=a>\n7\n</parameter>\n<parameter=how>\nup\n</parameter>"

static void test_which_calls(void **state) {
    vocabulary v;
    (void)state;
    open_vocabulary(&v, false);
    const char *any = "{\"tools\":" TOOLS ",\"format\":\"hermes\"}";
    const char *single = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"single\":true}";
    const char *named = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"name\":\"now\"}";
    const char *tags = "{\"tools\":" TOOLS ",\"format\":\"qwen3-coder\"}";
    check(&v, any, HERMES(ADD), true);
    check(&v, any, HERMES(ADD) "\n" HERMES(NOW), true);
    check(&v, any, HERMES("{\"name\": \"add\", \"arguments\": {}}"), false);
    check(&v, any, "text", false);
    check(&v, single, HERMES(ADD), true);
    check(&v, single, HERMES(ADD) "\n" HERMES(NOW), false);
    check(&v, named, HERMES(NOW), true);
    check(&v, named, HERMES(ADD), false);
    check(&v, tags, CODER(A_AND_HOW), true);
    check(&v, tags, CODER(A_AND_HOW "\n<parameter=note>\n<b>any</b>\n\"text\"\n</parameter>"), true);
    check(&v, tags, CODER(""), false);
    check(&v, tags, CODER("\n<parameter=a>\nseven\n</parameter>\n<parameter=how>\nup\n</parameter>"), false);
    check(&v, tags, CODER(A_AND_HOW "\n<parameter=x>\n1\n</parameter>"), false);
    check(&v, tags, CODER(A_AND_HOW "\n<parameter=maybe>\n2\n</parameter>"),
          false); /* read as a number < 3 */
    check(&v, tags, CODER(A_AND_HOW "\n<parameter=maybe>\nff\n</parameter>"), true);
    check(&v, tags, ADD, false);
    check(&v, "{\"tools\":" TOOLS "}", NOW, true);
    check(&v, "{\"tools\":[" TOOL("f", "null") "]}", "{\"name\": \"f\", \"arguments\": {\"x\": [1]}}", true);
    vocabulary_close(&v);
}

static void test_free_text(void **state) {
    vocabulary v;
    (void)state;
    open_vocabulary(&v, false);
    const char *hermes = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"free\":true}";
    const char *single = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"free\":true,\"single\":true}";
    const char *llama = "{\"tools\":" TOOLS ",\"format\":\"llama3\",\"free\":true}";
    const char *harmony = "{\"tools\":" TOOLS ",\"format\":\"harmony\",\"free\":true}";
    check(&v, hermes, "", true);
    check(&v, hermes, "No call. <tool <tool_cal l>", true);
    check(&v, hermes, "Now:\n" HERMES(NOW) "\nand\n" HERMES(ADD) "\nso.", true);
    check(&v, hermes, "Now: <tool_call>none</tool_call>", false);
    check(&v, single, "Now: " HERMES(NOW), true);
    check(&v, single, HERMES(NOW) HERMES(NOW), false);
    check(&v, llama, "{\"name\": \"now\", \"parameters\": {}}", true);
    check(&v, llama, "{\"name\": \"then\"}", false);
    check(&v, llama, "{\"names\": 1}", true);
    check(&v, llama, "See {\"name\": \"then\"}", true);
    check(&v, harmony, "<|channel|>final<|message|>Hi to=functions.x", true);
    check(&v, harmony, " to=functions.x", false);
    check(&v, harmony, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}", true);
    check(&v, harmony, "<|channel|>commentary to=functions.now <|constrain|>json<|message|>[]", false);
    /* what cannot be held to is free, unless it is asked for */
    check(&v, "{\"tools\":[" TOOL("f", "{\"not\":{}}") "],\"format\":\"hermes\",\"free\":true}",
          HERMES("{\"name\": \"f\", \"arguments\": {\"x\": 1}}"), true);
    check(&v, "{\"tools\":[" TOOL("f", "{\"not\":{}}") "],\"format\":\"minimax\",\"free\":true}",
          "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"x\">1</parameter>\n"
          "<parameter name=\"y\">2</parameter>\n</invoke>\n</minimax:tool_call>",
          true);
    plan_refused(&v, GUIDE_CALL,
                 "{\"tools\":[{\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{\"not\":{}}}}],"
                 "\"format\":\"hermes\",\"free\":true}",
                 NIB_UNSUPPORTED, "not at");
    vocabulary_close(&v);
}

/* The control token of a mark is asked for where the vocabulary has it, and no other text of it is allowed.
 */
static void test_control_tokens(void **state) {
    vocabulary v;
    (void)state;
    open_vocabulary(&v, true);
    guide_plan *plan = plan_of(&v, GUIDE_CALL, "{\"tools\":" TOOLS ",\"format\":\"hermes\"}", "");
    guide *g = guide_of(plan);
    const int32_t open = tokenizer_find(v.t, strview_of("<tool_call>"));
    assert_true(mask_has(guide_mask(g), open));
    assert_false(mask_has(guide_mask(g), '<'));
    assert_false(mask_has(guide_mask(g), tokenizer_find(v.t, strview_of("</tool_call>"))));
    assert_true(guide_accept(g, open));
    guide_close(g);
    guide_plan_release(plan);
    vocabulary_close(&v);
}

static void test_refused(void **state) {
    vocabulary v;
    (void)state;
    open_vocabulary(&v, false);
    plan_refused(&v, GUIDE_CALL, "[]", NIB_BAD_ARGUMENT, "expected an object");
    plan_refused(&v, GUIDE_CALL, "{}", NIB_BAD_ARGUMENT, "at least one");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":[{}]}", NIB_BAD_ARGUMENT, "a name in each");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":" TOOLS ",\"name\":\"x\"}", NIB_BAD_ARGUMENT,
                 "none has the name");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":" TOOLS ",\"free\":true}", NIB_BAD_ARGUMENT, "need a format");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":[" TOOL("f", "{\"not\":{}}") "]}", NIB_UNSUPPORTED, "not at");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":[" TOOL("a b", "{}") "]}", NIB_UNSUPPORTED, "the name \"a b\"");
    plan_refused(&v, GUIDE_CALL,
                 "{\"tools\":[" TOOL("f", "{\"properties\":{\"<\":{}}}") "],\"format\":\"glm\"}",
                 NIB_UNSUPPORTED, "cannot write this name");
    vocabulary_close(&v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_allowed_reads_back),
        cmocka_unit_test(test_which_calls),
        cmocka_unit_test(test_free_text),
        cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
