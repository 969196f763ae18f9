/* SPDX-License-Identifier: Apache-2.0
 *
 * Shapes through the API: a model of random weights writes what the shape allows, whatever it would rather
 * say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "tiny_engine.h"

static nib_engine *e;

static int open_engine(void **state) {
    (void)state;
    e = open_tiny(&(nib_options){.max_num_seqs = 8}, NULL);
    return 0;
}

static int close_engine(void **state) {
    (void)state;
    nib_close(e);
    return 0;
}

static nib_shape *shape_of(nib_shape_kind kind, const char *text) {
    nib_shape *shape;
    nib_error err = {""};
    const nib_shape_options o = {.size = sizeof o, .kind = kind, .text = text, .bytes = strlen(text)};
    if (nib_shape_open(e, &o, &shape, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return shape;
}

static nib_request *ask_shape(nib_shape *shape, nib_guide *guide, uint64_t seed) {
    nib_error err = {""};
    *guide = (nib_guide){.size = sizeof *guide};
    const nib_sampling how = {.size = sizeof how, .temperature = 1.5f, .seed = seed};
    assert_int_equal(nib_shape_guide(shape, guide, &err), NIB_OK);
    return submit_options(
        e, &(nib_request_options){
               .prompt = tiny_prompt, .n_prompt = 3, .max_tokens = 200, .guide = guide, .sampling = &how});
}

static void test_answers_have_the_shape(void **state) {
    (void)state;
    nib_shape *shape =
        shape_of(NIB_SHAPE_JSON_SCHEMA,
                 "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":4},\"n\":"
                 "{\"type\":\"integer\",\"minimum\":5,\"maximum\":70}},\"required\":[\"a\",\"n\"],"
                 "\"additionalProperties\":false}");
    nib_guide guides[8];
    nib_request *requests[8];
    for (uint64_t i = 0; i < 8; i++)
        requests[i] = ask_shape(shape, &guides[i], i);
    nib_shape_release(shape); /* the guides live on */
    for (int i = 0; i < 8; i++) {
        answer a;
        json_t *document;
        nib_error err = {""};
        read_answer(requests[i], &a);
        nib_shape_free_guide(&guides[i]);
        assert_int_equal(a.end.reason, NIB_END_STOP);
        if (json_read(&document, a.text, strlen(a.text), "the answer", &err) != NIB_OK)
            fail_msg("%s: %s", a.text, err.text);
        const json_int_t n = json_integer_value(json_object_get(document, "n"));
        assert_true(json_object_size(document) == 2 && json_is_string(json_object_get(document, "a")));
        assert_true(n >= 5 && n <= 70);
        json_decref(document);
    }
}

static void test_kinds(void **state) {
    (void)state;
    static const struct {
        nib_shape_kind kind;
        const char *text, *begins;
    } cases[] = {{NIB_SHAPE_REGEX, "x{7}", "xxxxxxx"},
                 {NIB_SHAPE_CHOICE, "[\"xyz\"]", "xyz"},
                 {NIB_SHAPE_GBNF, "root ::= \"ab\"{3}", "ababab"},
                 {NIB_SHAPE_JSON_OBJECT, "", "{"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_guide guide;
        answer a;
        nib_shape *shape = shape_of(cases[i].kind, cases[i].text);
        read_answer(ask_shape(shape, &guide, 3), &a);
        nib_shape_free_guide(&guide);
        nib_shape_free_guide(&guide);
        nib_shape_release(shape);
        if (strncmp(a.text, cases[i].begins, strlen(cases[i].begins)) != 0)
            fail_msg("\"%s\" does not begin with \"%s\"", a.text, cases[i].begins);
    }
}

/* A program of another age: its guide is filled as far as its size. */
static void test_guide_sizes(void **state) {
    (void)state;
    nib_error err = {""};
    nib_shape *shape = shape_of(NIB_SHAPE_REGEX, "x{7}");
    nib_guide guide = {.size = 0};
    assert_int_equal(nib_shape_guide(shape, &guide, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "set it to sizeof(nib_guide)"));
    assert_int_equal(nib_shape_guide(shape, NULL, &err), NIB_BAD_ARGUMENT);
    memset(&guide, 0x5A, sizeof guide);
    guide.size = offsetof(nib_guide, accept);
    assert_int_equal(nib_shape_guide(shape, &guide, &err), NIB_OK);
    assert_int_equal(guide.size, offsetof(nib_guide, accept));
    assert_int_equal(*(unsigned char *)&guide.accept, 0x5A); /* not written */
    nib_shape_free_guide(&guide);
    assert_null(guide.context);
    assert_int_equal(*(unsigned char *)&guide.accept, 0x5A);
    nib_shape_release(shape);
}

static void refused(const nib_shape_options *options, nib_status status, const char *words) {
    nib_shape *shape;
    nib_error err = {""};
    assert_int_equal(nib_shape_open(e, options, &shape, &err), status);
    assert_null(shape);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" is not in \"%s\"", words, err.text);
}

static void test_refusals(void **state) {
    (void)state;
    nib_error err = {""};
    nib_shape_options o = {
        .size = sizeof o, .kind = NIB_SHAPE_JSON_SCHEMA, .text = "{\"not\":{}}", .bytes = 10};
    refused(&o, NIB_UNSUPPORTED, "not at \"#\"");
    o.bytes = 5;
    refused(&o, NIB_BAD_ARGUMENT, "not valid JSON");
    o.kind = (nib_shape_kind)9;
    refused(&o, NIB_BAD_ARGUMENT, "kind is 9");
    o = (nib_shape_options){.size = sizeof o, .kind = NIB_SHAPE_REGEX, .bytes = 5};
    refused(&o, NIB_BAD_ARGUMENT, "text is NULL");
    refused(NULL, NIB_BAD_ARGUMENT, "the options");
    assert_int_equal(nib_shape_guide(NULL, NULL, &err), NIB_BAD_ARGUMENT);
    nib_shape_release(NULL);
    nib_shape_free_guide(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_answers_have_the_shape),
                                       cmocka_unit_test(test_kinds), cmocka_unit_test(test_guide_sizes),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
