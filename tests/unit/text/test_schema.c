/* SPDX-License-Identifier: Apache-2.0
 *
 * Schemas and other shapes against documents, byte by byte: tests/golden/text/shapes.json, and the schemas
 * that are refused.
 */
#include "guide_fixture.h"
#include "text/grammar.h"

static vocabulary v;

static int open_vocabulary(void **state) {
    (void)state;
    vocabulary_start(&v);
    vocabulary_finish(&v);
    return 0;
}

static int close_vocabulary(void **state) {
    (void)state;
    vocabulary_close(&v);
    return 0;
}

static guide_plan *plan_of_shape(const json_t *shape) {
    static const char *const names[] = {"object", "schema", "regex", "choice", "gbnf"};
    const char *kind = json_string_value(json_object_get(shape, "kind"));
    json_t *schema = json_object_get(shape, "schema");
    int i = 0;
    while (strcmp(names[i], kind) != 0)
        assert_true(++i < 5);
    char *text = schema ? json_dumps(schema, JSON_ENCODE_ANY) : NULL;
    guide_plan *plan =
        plan_of(&v, (guide_kind)i, text ? text : json_string_value(json_object_get(shape, "text")), "");
    mem_free(text);
    return plan;
}

static void test_shapes(void **state) {
    (void)state;
    mapfile file = fixture_file("golden/text/shapes.json");
    json_t *shapes, *shape, *doc;
    nib_error err = {""};
    size_t i, k, n_schemas = 0;
    assert_int_equal(json_read(&shapes, file.bytes, file.size, "shapes.json", &err), NIB_OK);
    json_array_foreach(shapes, i, shape) {
        guide_plan *plan = plan_of_shape(shape);
        n_schemas += json_object_get(shape, "schema") != NULL;
        json_array_foreach(json_object_get(shape, "docs"), k, doc) {
            if (!plan_allows(plan, json_string_value(doc)))
                fail_msg("%s: refuses %s", json_string_value(json_object_get(shape, "name")),
                         json_string_value(doc));
        }
        json_array_foreach(json_object_get(shape, "bad"), k, doc) {
            if (plan_allows(plan, json_string_value(doc)))
                fail_msg("%s: allows %s", json_string_value(json_object_get(shape, "name")),
                         json_string_value(doc));
        }
        guide_plan_release(plan);
    }
    assert_true(n_schemas >= 32);
    json_decref(shapes);
    mapfile_close(&file);
}

static void refused(const char *schema, const char *words) {
    plan_refused(&v, GUIDE_JSON_SCHEMA, schema, NIB_UNSUPPORTED, words);
}

static void test_refusals_name_keyword_and_place(void **state) {
    (void)state;
    refused("{\"not\":{\"type\":\"null\"}}", "not at \"#\"");
    refused("{\"properties\":{\"a\":{\"items\":{\"if\":{}}}}}", "if at \"#/properties/a/items\"");
    refused("{\"items\":{\"uniqueItems\":true}}", "uniqueItems at \"#/items\"");
    refused("{\"contains\":{}}", "contains at");
    refused("{\"dependentRequired\":{\"a\":[\"b\"]}}", "dependentRequired");
    refused("{\"unevaluatedItems\":false}", "unevaluatedItems");
    refused("{\"type\":\"string\",\"format\":\"idn-email\"}", "format");
    refused("{\"type\":\"string\",\"pattern\":\"(?=a)b\"}", "pattern at \"#\"");
    refused("{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "\\1 is not supported");
    refused("{\"type\":\"string\",\"pattern\":\"\\\\bword\"}", "\\b is not supported");
    refused("{\"$ref\":\"#/$defs/nothing\"}", "\"#/$defs/nothing\" is no schema");
    refused("{\"$ref\":\"https://example.org/x.json\"}", "$ref at");
    refused("{\"type\":\"text\"}", "names of JSON's types");
    refused("{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}",
            "oneOf at \"#\": branches that may both");
    refused("{\"type\":\"number\",\"multipleOf\":0.01}", "multipleOf");
    refused("{\"minProperties\":2}", "minProperties");
    refused("{\"maxLength\":-1}", "expected a whole number");
    refused("{\"maxItems\":1000001}", "above 1000000");
    refused("{\"minimum\":\"a\"}", "minimum at \"#\": expected a number");
    refused("[]", "expected an object or a boolean");
    refused("false", "nothing can match");
    refused("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
            "nothing can match");
    refused("{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "nothing can match");
    refused("{\"minLength\":3,\"maxLength\":2,\"type\":\"string\"}", "nothing can match");
    plan_refused(&v, GUIDE_JSON_SCHEMA, "{", NIB_BAD_ARGUMENT, "not valid JSON");
    plan_refused(&v, GUIDE_JSON_SCHEMA, "", NIB_BAD_ARGUMENT, "the JSON schema");
}

/* Schemas that would take for ever or all memory. */
static void test_hostile_schemas(void **state) {
    (void)state;
    char *text = malloc(300000), *p = text;
    for (int i = 0; i < 600; i++) /* deep */
        p += sprintf(p, "{\"items\":");
    p += sprintf(p, "{}");
    for (int i = 0; i < 600; i++)
        *p++ = '}';
    *p = '\0';
    refused(text, "nested too deeply");
    p = text + sprintf(text, "{\"$defs\":{"); /* each allOf doubles */
    for (int i = 0; i < 40; i++)
        p += sprintf(p, "\"d%d\":{\"allOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", i,
                     i + 1, i + 1);
    sprintf(p, "\"d40\":{\"minLength\":1}},\"$ref\":\"#/$defs/d0\"}");
    refused(text, "too many schemas");
    refused(
        "{\"$defs\":{\"a\":{\"allOf\":[{\"$ref\":\"#/$defs/a\"},{\"minimum\":1}]}},\"$ref\":\"#/$defs/a\"}",
        "allOf");
    refused("{\"type\":\"string\",\"pattern\":\"^(a|b)*a(a|b){14}$\",\"minLength\":100}", "states");
    refused("{\"type\":\"string\",\"pattern\":\"^a?\",\"minLength\":100000}", "states");
    p = text + sprintf(text, "{\"enum\":["); /* a large enum is fine */
    for (int i = 0; i < 5000; i++)
        p += sprintf(p, "%s\"value%d\"", i ? "," : "", i);
    sprintf(p, "]}");
    const double from = cpu_seconds();
    guide_plan *plan = plan_of(&v, GUIDE_JSON_SCHEMA, text, "");
    assert_true(plan_allows(plan, "\"value4321\""));
    assert_false(plan_allows(plan, "\"value5000\""));
    assert_true(cpu_seconds() - from < 5);
    guide_plan_release(plan);
    free(text);
}

static void test_deep_documents_end(void **state) {
    (void)state;
    guide_plan *plan = plan_of(&v, GUIDE_JSON_SCHEMA, "{}", "");
    guide *g = guide_of(plan);
    size_t depth = 0;
    while (guide_accept(g, '[')) /* bounded, and every bracket can still be closed */
        depth++;
    assert_true(depth > 50 && depth <= GRAMMAR_MAX_DEPTH);
    for (; depth > 0; depth--)
        assert_true(guide_accept(g, ']'));
    assert_true(guide_finished(g));
    guide_close(g);
    guide_plan_release(plan);
}

static nib_status open_and_close(const char *schema) {
    guide_plan *plan;
    guide *g = NULL;
    nib_error err = {""};
    nib_status status = guide_plan_open(&plan, GUIDE_JSON_SCHEMA, strview_of(schema),
                                        (guide_preamble){.end = strview_of("</think>")}, v.words, v.t, &err);
    if (status == NIB_OK)
        status = guide_open(&g, plan, &err);
    if (status == NIB_OK && (!guide_mask(g) || !guide_accept(g, '{')))
        status = guide_failure(g, &err);
    guide_close(g);
    guide_plan_release(plan);
    assert_true(status == NIB_OK || err.text[0]);
    return status;
}

static void test_no_memory(void **state) {
    (void)state;
    static const char schema[] =
        "{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^x+$\",\"maxLength\":5},\"b\":"
        "{\"enum\":[1,\"a\"],"
        "\"type\":[\"string\",\"integer\"],\"maxLength\":3}},\"required\":[\"a\"]},{\"type\":\"object\","
        "\"properties\":"
        "{\"a\":{\"minLength\":2}},\"patternProperties\":{\"^c\":{\"multipleOf\":3,\"maximum\":100}}}]}";
    long n = 0;
    for (nib_status status = NIB_NO_MEMORY; status != NIB_OK; n++) {
        mem_fail_after(n);
        status = open_and_close(schema);
        mem_fail_after(-1);
        if (status != NIB_OK && status != NIB_NO_MEMORY)
            fail_msg("allocation %ld: status %d", n, (int)status);
    }
    assert_true(n > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),          cmocka_unit_test(test_refusals_name_keyword_and_place),
        cmocka_unit_test(test_hostile_schemas), cmocka_unit_test(test_deep_documents_end),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, open_vocabulary, close_vocabulary);
}
