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
#define TOOLS                                                                                                \
    "[" TOOL("add",                                                                                          \
             "{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"],"                          \
             "\"additionalProperties\":false}") "," TOOL("now", "{\"type\":\"object\","                      \
                                                                "\"additionalProperties\":false}") "]"

static uint32_t random_state = 11;

/* A text that PLAN allows: random bytes of its masks, the end as soon as it may come. */
static void random_text(guide_plan *plan, char *out, size_t room) {
    guide *g = guide_of(plan);
    size_t n = 0;
    while (!guide_can_end(g) && n + 1 < room) {
        const uint32_t *mask = guide_mask(g);
        int32_t id;
        do {
            random_state = random_state * 1664525u + 1013904223u;
            id = (int32_t)((random_state >> 10) & 255);
        } while (!mask_has(mask, id));
        assert_true(guide_accept(g, id));
        out[n++] = (char)id;
    }
    out[n] = 0;
    guide_close(g);
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
        if (strcmp(name, "add") == 0)
            assert_true(json_is_integer(json_object_get(arguments, "a")) && json_object_size(arguments) == 1);
        else
            assert_true(strcmp(name, "now") == 0 && json_object_size(arguments) == 0);
        json_decref(arguments);
    }
    chat_answer_free(&answer);
    chat_close(c);
}

static void test_what_is_allowed_reads_back(void **state) {
    vocabulary v;
    (void)state;
    vocabulary_start(&v);
    vocabulary_finish(&v);
    json_t *tools = json_loads(TOOLS, 0, NULL);
    int n_formats = 0;
    for (const chat_format *f = chat_formats; f->name; f++) {
        if (f->param_open || f->shape == CHAT_GEMMA || f->shape == CHAT_HARMONY)
            continue;
        char text[4096], shape[2048];
        snprintf(shape, sizeof shape, "{\"tools\":" TOOLS ",\"format\":\"%s\"}", f->name);
        guide_plan *plan = plan_of(&v, GUIDE_CALL, shape, "");
        for (int k = 0; k < 8; k++) {
            random_text(plan, text, sizeof text);
            check_answer(f, tools, text);
        }
        guide_plan_release(plan);
        n_formats++;
    }
    assert_true(n_formats > 8);
    json_decref(tools);
    vocabulary_close(&v);
}

static void check(const vocabulary *v, const char *shape, const char *text, bool allowed) {
    guide_plan *plan = plan_of(v, GUIDE_CALL, shape, "");
    if (plan_allows(plan, text) != allowed)
        fail_msg("%s: %s is %s", shape, text, allowed ? "refused" : "allowed");
    guide_plan_release(plan);
}

#define HERMES(call) "<tool_call>\n" call "\n</tool_call>"
#define ADD          "{\"name\": \"add\", \"arguments\": {\"a\": 7}}"
#define NOW          "{\"name\": \"now\", \"arguments\": {}}"

static void test_which_calls(void **state) {
    vocabulary v;
    (void)state;
    vocabulary_start(&v);
    vocabulary_finish(&v);
    const char *any = "{\"tools\":" TOOLS ",\"format\":\"hermes\"}";
    const char *single = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"single\":true}";
    const char *named = "{\"tools\":" TOOLS ",\"format\":\"hermes\",\"name\":\"now\"}";
    check(&v, any, HERMES(ADD), true);
    check(&v, any, HERMES(ADD) "\n" HERMES(NOW), true);
    check(&v, any, HERMES("{\"name\": \"add\", \"arguments\": {}}"), false);
    check(&v, any, "text", false);
    check(&v, single, HERMES(ADD), true);
    check(&v, single, HERMES(ADD) "\n" HERMES(NOW), false);
    check(&v, named, HERMES(NOW), true);
    check(&v, named, HERMES(ADD), false);
    check(&v, "{\"tools\":" TOOLS ",\"format\":\"qwen3-coder\"}", ADD, true); /* tags: bare JSON */
    check(&v, "{\"tools\":" TOOLS "}", NOW, true);
    check(&v, "{\"tools\":[" TOOL("f", "null") "]}", "{\"name\": \"f\", \"arguments\": {\"x\": [1]}}", true);
    vocabulary_close(&v);
}

static void test_refused(void **state) {
    vocabulary v;
    (void)state;
    vocabulary_start(&v);
    vocabulary_finish(&v);
    plan_refused(&v, GUIDE_CALL, "[]", NIB_BAD_ARGUMENT, "expected an object");
    plan_refused(&v, GUIDE_CALL, "{}", NIB_BAD_ARGUMENT, "at least one");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":[{}]}", NIB_BAD_ARGUMENT, "a name in each");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":" TOOLS ",\"name\":\"x\"}", NIB_BAD_ARGUMENT,
                 "none has the name");
    plan_refused(&v, GUIDE_CALL, "{\"tools\":[" TOOL("f", "{\"not\":{}}") "]}", NIB_UNSUPPORTED, "not at");
    vocabulary_close(&v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_allowed_reads_back),
        cmocka_unit_test(test_which_calls),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
