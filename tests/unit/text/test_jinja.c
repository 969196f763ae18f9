/* SPDX-License-Identifier: Apache-2.0
 *
 * The Jinja interpreter against jinja2 as transformers sets it up (tests/golden/text/jinja.json, made by
 * tests/tools/make_jinja_golden.py); its marks, its bounds, its words.
 */
#include "text/jinja.h"

#include "text_fixture.h"

typedef struct rendered {
    nib_status status;
    jinja_output out;
    nib_error err;
} rendered;

static rendered render_with(strview source, const jinja_options *o) {
    rendered r = {0};
    jinja_template *t;
    r.status = jinja_open(&t, source, &r.err);
    if (r.status != NIB_OK) {
        assert_null(t);
        return r;
    }
    r.status = jinja_render(t, o, &r.out, &r.err);
    assert_int_equal(r.status == NIB_OK, r.out.text != NULL);
    jinja_close(t);
    return r;
}

static json_t *read_json(const char *text) {
    json_t *json;
    nib_error err = {""};
    if (json_read(&json, text, strlen(text), "test", &err) != NIB_OK)
        fail_msg("%s", err.text);
    return json;
}

/* ---- against jinja2 ---- */

/* What differs from jinja2, and why. */
static bool is_ours(strview source) {
    static const char *const ours[] = {
        "{% for x in xs recursive %}{% endfor %}x", /* refused: no template uses it */
        "{{ xs.append(1) }}",
        "{{ d.pop(\"a\") }}",
        "{{ d.update({}) }}", /* the sandbox forbids them */
        "{{ xs.append is defined }}",
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strview_is(source, ours[i]))
            return true;
    return false;
}

static void golden_rows_equal_jinja2(void **state) {
    (void)state;
    mapfile m = fixture_file("golden/text/jinja.json");
    json_t *golden, *row, *value;
    assert_int_equal(json_read(&golden, m.bytes, m.size, "jinja.json", NULL), NIB_OK);
    jinja_variable variables[64];
    jinja_options o = {.variables = variables, .now = 1};
    const char *name;
    json_object_foreach(json_object_get(golden, "variables"), name, value) variables[o.n_variables++] =
        (jinja_variable){.name = name, .json = value};
    size_t i, same = 0, refused = 0, different = 0;
    json_array_foreach(json_object_get(golden, "rows"), i, row) {
        const json_t *source = json_array_get(row, 0), *expected = json_array_get(row, 1);
        const strview text = {json_string_value(source), json_string_length(source)};
        rendered r = render_with(text, &o);
        const bool equal = r.status == NIB_OK && json_is_string(expected) &&
                           r.out.n == json_string_length(expected) &&
                           memcmp(r.out.text, json_string_value(expected), r.out.n) == 0;
        const bool both_refuse = r.status != NIB_OK && json_is_null(expected);
        same += equal;
        refused += both_refuse;
        if (!equal && !both_refuse && !is_ours(text)) {
            different++;
            print_message("%s\n  jinja2: %s\n  nibble: %s\n", text.p,
                          json_is_string(expected) ? json_string_value(expected) : "(raises)",
                          r.status == NIB_OK ? r.out.text : r.err.text);
        }
        jinja_output_free(&r.out);
    }
    assert_int_equal(different, 0);
    assert_true(same > 500 && refused > 80);
    json_decref(golden);
    mapfile_close(&m);
}

/* ---- whose bytes ---- */

/* The output with every run of a user's bytes in [ ]. */
static char *bracketed(const jinja_output *o) {
    char *text = malloc(3 * o->n + 1), *p = text;
    for (size_t i = 0; i < o->n; i++) {
        if (o->marks[i] && (i == 0 || !o->marks[i - 1]))
            *p++ = '[';
        *p++ = o->text[i];
        if (o->marks[i] && (i + 1 == o->n || !o->marks[i + 1]))
            *p++ = ']';
    }
    *p = '\0';
    return text;
}

static void users_bytes_are_marked(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a{{ s }}b", "a[Hello you]b"},
        {"{{ '<' + s + '>' }}", "<[Hello you]>"},
        {"{{ s[1:3] ~ '-' ~ (s|upper) ~ s[::-1] }}", "[el]-[HELLO YOUuoy olleH]"},
        {"{{ (' ' + s + ' ')|trim }}", "[Hello you]"},
        {"{{ ('x' + s)|replace('l', 'L') }}", "x[He]LL[o you]"},
        {"{{ s.split(' ')|join('+') }}", "[Hello]+[you]"},
        {"{{ d|tojson }}", "{\"[k]\": [\"[v\\n]\", 1]}"},
        {"{{ d }}", "{'[k]': ['[v\\n]', 1]}"},
        {"{% set x %}a{{ s }}{% endset %}{{ x }}", "a[Hello you]"},
        {"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(s) }}", "<[Hello you]>"},
        {"{{ '%s!' % s }}{{ '{}'.format(s) }}", "[Hello you]![Hello you]"},
        {"{{ s|indent(1, true) }}", " [Hello you]"},
        {"{% for c in s[:2] %}{{ c }},{% endfor %}", "[H],[e],"},
        {"{{ d.keys()|first ~ d|length ~ loop }}", "[k]1"},
        {"{% set a = 'x' ~ 'y' %}{% set b = a ~ s %}{% set c = a ~ 'z' + s %}{{ a }}|{{ b }}|{{ c }}|{{ b ~ "
         "a }}",
         "xy|xy[Hello you]|xyz[Hello you]|xy[Hello you]xy"},
        {"{% set ns = namespace(o=s ~ '') %}{% for i in range(3) %}{% set ns.o = ns.o ~ i ~ s[0] %}{% endfor "
         "%}{{ ns.o }}",
         "[Hello you]0[H]1[H]2[H]"},
        {"{{ t }}{{ n }}", "True7"},
        {"{{ messages[0].role ~ messages[0].content ~ messages[1].role }}", "user[system<|im_end|>]"},
    };
    json_t *s = json_string("Hello you"), *t = json_true(), *n = json_integer(7),
           *d = read_json("{\"k\": [\"v\\n\", 1]}"),
           *messages =
               read_json("[{\"role\": \"user\", \"content\": \"system\"}, {\"role\": \"<|im_end|>\"}]");
    const char *const roles[] = {"user", "system", NULL};
    const jinja_variable variables[] = {{.name = "s", .json = s},
                                        {.name = "t", .json = t},
                                        {.name = "n", .json = n},
                                        {.name = "d", .json = d},
                                        {.name = "messages", .json = messages}};
    const jinja_options o = {.variables = variables, .n_variables = 5, .roles = roles};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rendered r = render_with(strview_of(cases[i][0]), &o);
        if (r.status != NIB_OK)
            fail_msg("%s: %s", cases[i][0], r.err.text);
        char *text = bracketed(&r.out);
        assert_string_equal(text, cases[i][1]);
        free(text);
        jinja_output_free(&r.out);
    }
    json_decref(s);
    json_decref(n);
    json_decref(d);
    json_decref(messages);
}

/* ---- words and bounds ---- */

static void check_refused(const char *source, nib_status expected, const char *words) {
    const double start = cpu_seconds();
    rendered r = render_with(strview_of(source), &(jinja_options){.max_bytes = (size_t)64 << 20});
    assert_int_equal(r.status, expected);
    if (!strstr(r.err.text, words))
        fail_msg("\"%s\" is not in \"%s\"", words, r.err.text);
    assert_true(cpu_seconds() - start < 4);
}

static void refusals_have_words(void **state) {
    (void)state;
    check_refused("{{ raise_exception('Roles must alternate') }}", NIB_BAD_ARGUMENT, "Roles must alternate");
    check_refused("{{ x.y }}", NIB_BAD_ARGUMENT, "'x' is undefined");
    check_refused("{{ {}.x.y }}", NIB_BAD_ARGUMENT, "'dict object' has no attribute 'x'");
    check_refused("{{ [].sort() }}", NIB_BAD_ARGUMENT, "no attribute 'sort'");
    check_refused("a\n\n{% if %}", NIB_BAD_FILE, "line 3");
    check_refused("{% include 'x' %}", NIB_UNSUPPORTED, "'include' is not supported");
    check_refused("{{ 'a'|nosuch }}", NIB_BAD_ARGUMENT, "No filter named 'nosuch'");
    check_refused("\xff", NIB_BAD_FILE, "UTF-8");
}

static void hostile_templates_end(void **state) {
    (void)state;
    static const char big[] = "{% for a in range(99999) %}{% for b in range(99999) %}";
    char text[200];
    snprintf(text, sizeof text, "%s{%% endfor %%}{%% endfor %%}", big);
    check_refused(text, NIB_BAD_ARGUMENT, "too m");
    snprintf(text, sizeof text, "%sxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{%% endfor %%}{%% endfor %%}", big);
    check_refused(text, NIB_BAD_ARGUMENT, "too m");
    check_refused("{{ 'ab' * 999999999999 }}", NIB_BAD_ARGUMENT, "too m");
    check_refused("{{ [1] * 999999999999 }}", NIB_BAD_ARGUMENT, "too m");
    check_refused("{{ 2 ** 999999999 }}", NIB_BAD_ARGUMENT, "too large");
    check_refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NIB_BAD_ARGUMENT, "too deep");
    check_refused(
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
        NIB_BAD_ARGUMENT, "too deep");
    check_refused("{% set n = namespace(x=[], y=[]) %}{% for i in range(9999) %}{% set n.x = [n.x] %}"
                  "{% set n.y = [n.y] %}{% endfor %}{{ n.x == n.y }}",
                  NIB_BAD_ARGUMENT, "too deep");
    check_refused(
        "{% set n = namespace(x={}) %}{% for i in range(9999) %}{% set n.x = {'a': n.x} %}{% endfor %}"
        "{{ n.x|tojson }}",
        NIB_BAD_ARGUMENT, "too deep");
    check_refused("{{ range(100001) }}", NIB_BAD_ARGUMENT, "Range too big");
    check_refused(
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        NIB_BAD_ARGUMENT, "too much memory");
}

/* A unit over and over: quick, and never a crash. */
static void hostile_sources_are_quick(void **state) {
    (void)state;
    static const char *const units[] = {
        "{{",        "{%", "{#",  "(",  "{{(",        "{{ [",         "{{ not ",  "{{ - ",     "{{ a[",
        "{{ a.b|c(", "'",  "{{'", "\\", "{% if t %}", "{% for x in ", "{{ a if ", "{% raw %}", "{{ {1:"};
    static char text[100001];
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        const size_t n = strlen(units[i]);
        for (size_t k = 0; k < sizeof text - 1; k++)
            text[k] = units[i][k % n];
        const double start = cpu_seconds();
        rendered r = render_with((strview){text, sizeof text - 1}, &(jinja_options){0});
        assert_true(cpu_seconds() - start < 2);
        jinja_output_free(&r.out);
    }
    static char nested[4000];
    for (size_t k = 0; k < 1500; k++) {
        nested[2 + k] = '(';
        nested[2 + 1500 + 1 + k] = ')';
    }
    memcpy(nested, "{{", 2);
    nested[1502] = '1';
    memcpy(nested + 3003, "}}", 3);
    check_refused(nested, NIB_BAD_FILE, "too deep");
}

/* transformers' sandbox forbids what jinja2 has and Kimi's template needs. */
static void lists_and_dicts_change(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}{{ l.pop() }}{{ l }}", "[1, 2]2[1]"},
        {"{% set l = [1, 2] %}{% set _ = l.insert(0, 0) %}{% set _ = l.extend([3]) %}{{ l }}{{ l.pop(0) }}",
         "[0, 1, 2, 3]0"},
        {"{% set l = [1] %}{% set m = l %}{% set _ = m.append(2) %}{{ l }}", "[1, 2]"},
        {"{% set l = [] %}{% for i in range(3) %}{% set _ = l.append(i) %}{% endfor %}{{ l }}", "[0, 1, 2]"},
        {"{% set d = {'a': 1} %}{% set _ = d.update({'b': 2}, c=3) %}{{ d }}{{ d.pop('a') }}{{ d }}",
         "{'a': 1, 'b': 2, 'c': 3}1{'b': 2, 'c': 3}"},
        {"{% set d = {} %}{{ d.setdefault('a', 1) }}{{ d.setdefault('a', 2) }}{{ d.pop('z', 9) }}", "119"},
        {"{% set l = [1] %}{% set _ = l.append(1) %}{% for x in l %}{{ x }}{% set _ = l.pop() %}{% endfor %}",
         "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rendered r = render_with(strview_of(cases[i][0]), &(jinja_options){0});
        if (r.status != NIB_OK)
            fail_msg("%s: %s", cases[i][0], r.err.text);
        assert_string_equal(r.out.text, cases[i][1]);
        jinja_output_free(&r.out);
    }
    check_refused("{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", NIB_BAD_ARGUMENT, "too deep");
    check_refused("{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}", NIB_BAD_ARGUMENT,
                  "too m");
    check_refused("{{ [].pop() }}", NIB_BAD_ARGUMENT, "pop from empty list");
    check_refused("{{ (1,).append(1) }}", NIB_BAD_ARGUMENT, "no attribute 'append'");
}

static void the_date_is_the_callers(void **state) {
    (void)state;
    setenv("TZ", "UTC", 1);
    rendered r =
        render_with(strview_of("{{ strftime_now('%d %b %Y') }}"), &(jinja_options){.now = 1722000000});
    assert_string_equal(r.out.text, "26 Jul 2024");
    jinja_output_free(&r.out);
}

static void failing_memory_is_said(void **state) {
    (void)state;
    static const char source[] =
        "{% set n = namespace(a=1) %}{% for i in range(3) %}{{ i|tojson }}{{ {'a': i} }}"
        "{% endfor %}{{ 'x' * 70000 }}";
    for (long k = 0;; k++) {
        mem_fail_after(k);
        rendered r = render_with(strview_of(source), &(jinja_options){0});
        mem_fail_after(-1);
        jinja_output_free(&r.out);
        if (r.status == NIB_OK)
            break;
        assert_int_equal(r.status, NIB_NO_MEMORY);
        assert_true(k < 200);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_rows_equal_jinja2),  cmocka_unit_test(users_bytes_are_marked),
        cmocka_unit_test(refusals_have_words),       cmocka_unit_test(hostile_templates_end),
        cmocka_unit_test(hostile_sources_are_quick), cmocka_unit_test(the_date_is_the_callers),
        cmocka_unit_test(lists_and_dicts_change),    cmocka_unit_test(failing_memory_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
