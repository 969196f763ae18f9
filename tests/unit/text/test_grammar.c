/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expressions, choices and GBNF: what they allow, what is refused, and that hostile ones are bounded.
 */
#include "guide_fixture.h"
#include "text/language.h"

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

/* DOCS are separated by commas; those after a bar are refused. */
static void check(guide_kind kind, const char *text, const char *docs) {
    guide_plan *plan = plan_of(&v, kind, text, "");
    char doc[256];
    bool good = true;
    for (const char *p = docs;; p++) {
        const size_t n = strcspn(p, ",|");
        memcpy(doc, p, n);
        doc[n] = '\0';
        if (plan_allows(plan, doc) != good)
            fail_msg("%s: %s \"%s\"", text, good ? "refuses" : "allows", doc);
        p += n;
        good = good && *p != '|';
        if (!*p)
            break;
    }
    guide_plan_release(plan);
}

static void test_regex(void **state) {
    (void)state;
    check(GUIDE_REGEX, "abc", "abc|ab,abcd,");
    check(GUIDE_REGEX, "a|bc|", "a,bc,|b,abc");
    check(GUIDE_REGEX, "a*b+c?", "b,aab,bbc,abc|a,c,bcc");
    check(GUIDE_REGEX, "(?:ab){2,3}", "abab,ababab|ab,abababab,aba");
    check(GUIDE_REGEX, "x{2}y{1,}z{0,2}?", "xxy,xxyyzz|xy,xxzz,xxyzzz");
    check(GUIDE_REGEX, "^a.c$",
          "abc,a\xC3\xA9"
          "c|ac,a\nc,abbc");
    check(GUIDE_REGEX, "[a-c^-]+[^a-c]", "a-d,^\xF0\x9F\x98\x80|ab,dd");
    check(GUIDE_REGEX, "\\d\\w\\s\\.\\x41\\u00e9", "1_ .A\xC3\xA9|1_ xA\xC3\xA9,a_ .A\xC3\xA9");
    check(GUIDE_REGEX, "\\D\\W\\S", "a-b|1-b,a_b,a- ");
    check(GUIDE_REGEX, "\\p{L}+\\p{N}",
          "\xC3\xA9t\xC3\xA9"
          "1,\xD0\x96\xC2\xBD|a,1");
    check(GUIDE_REGEX, "[\\u{1F600}-\\u{1F64F}]", "\xF0\x9F\x98\x80|\xF0\x9F\x97\xBF,a");
    check(GUIDE_REGEX, "(a|b(c|d(e|f)))", "a,bc,bde,bdf|b,bd");
    check(GUIDE_REGEX, "(a?){3}b", "b,ab,aaab|aaaab");
    check(GUIDE_REGEX, "(a*){2,5}b", "b,aaaaaaaaab|a");
    check(GUIDE_REGEX, "(?:a{0,40}b){3}", "bbb,abaabb|bb,ab");
}

static void test_regex_refusals(void **state) {
    (void)state;
    static const char *const patterns[][2] = {
        {"(?=a)", "look around"}, {"(?i)a", "flags"},       {"(a)\\1", "\\1"},
        {"\\bx", "\\b"},          {"a**+", "possessive"},   {"*a", "repetition of nothing"},
        {"a)", ") without ("},    {"(a", "( without )"},    {"[a", "[ without ]"},
        {"[z-a]", "ends before"}, {"a{3,2}", "least"},      {"\\p{Greek}", "property"},
        {"a^b", "middle"},        {"[[:alpha:]]", "[:"},    {"\\", "backslash"},
        {"\xFF", "UTF-8"},        {"\\ud800", "surrogate"}, {"a{1000001}", "more than 1000000"},
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        plan_refused(&v, GUIDE_REGEX, patterns[i][0], NIB_UNSUPPORTED, patterns[i][1]);
    char deep[1100];
    memset(deep, '(', 1000);
    deep[1000] = '\0';
    plan_refused(&v, GUIDE_REGEX, deep, NIB_UNSUPPORTED, "nested too deeply");
}

static void test_choice(void **state) {
    (void)state;
    check(GUIDE_CHOICE, "[\"yes\",\"no\",\"not sure\"]", "yes,no,not sure|y,note,yesno");
    plan_refused(&v, GUIDE_CHOICE, "[]", NIB_BAD_ARGUMENT, "1 to 4096");
    plan_refused(&v, GUIDE_CHOICE, "[1]", NIB_BAD_ARGUMENT, "number 1 is no string");
    plan_refused(&v, GUIDE_CHOICE, "{\"a\":1}", NIB_BAD_ARGUMENT, "1 to 4096");
    plan_refused(&v, GUIDE_CHOICE, "nope", NIB_BAD_ARGUMENT, "not valid JSON");
}

static void test_gbnf(void **state) {
    (void)state;
    check(GUIDE_GBNF, "root ::= \"a\" b | \"c\"\nb ::= [x-z]+ # tail", "ax,ayz,c|a,b,cx");
    check(GUIDE_GBNF, "root ::= (\"a\"\n  | \"b\")* \"!\"", "!,ab!,bb!|a,c!");
    check(GUIDE_GBNF, "root ::=\n  \"\\x41\\n\" . \"\\\"\"", "A\n\xE2\x82\xAC\"|A\n\"");
    check(GUIDE_GBNF, "root ::= x{2} x{0,1} y{,2} z{1,}\nx ::= \"x\"\ny ::= \"y\"\nz ::= \"z\"",
          "xxz,xxxyyzz|xz,xxyyyz,xxx");
    check(GUIDE_GBNF, "root ::= \"(\" root \")\" | \"\"", ",(),((()))|(,()),)(");
    check(GUIDE_GBNF, "root ::= [^a-c\\n]", "d,\xC3\xA9|a,\n,dd");
    check(GUIDE_GBNF, "root ::= list\nlist ::= \"a\" list | \"a\"",
          "a,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|b");
    check(GUIDE_GBNF, "root ::= r r{0,3}\nr ::= \"ab\" | \"abab\"", "ab,abababab|a,aba");
}

static void test_gbnf_refusals(void **state) {
    (void)state;
    static const char *const grammars[][2] = {
        {"x ::= \"a\"", "no rule \"root\""},
        {"root ::= x", "uses the rule \"x\", which it does not define"},
        {"root ::= root \"a\" | \"b\"", "left-recursive in the rule root"},
        {"root ::= a\na ::= b \"x\"\nb ::= \"\" a | \"y\"", "left-recursive in the rule"},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2: the rule \"root\" is defined twice"},
        {"root ::= \"a", "second quote"},
        {"root ::= [a", "without its ]"},
        {"root ::= (\"a\"", "( without )"},
        {"root ::= \"a\" )", ") without ("},
        {"root = \"a\"", "expected ::="},
        {"root ::= <[10]>", "tokens as terminals"},
        {"root ::= \"a\"{3,1}", "least number"},
        {"root ::= \"\\q\"", "an escape"},
        {"root ::= \"(\" root \")\"", "nothing can match"},
        {"root ::= e{3,90}\ne ::= \"a\"?", "what may be empty"},
        {"", "no rule \"root\""},
    };
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++)
        plan_refused(&v, GUIDE_GBNF, grammars[i][0], NIB_UNSUPPORTED, grammars[i][1]);
}

/* Every a can be read in two ways, so the ways double with each: the guide gives up in words, and others of
 * the plan go on. */
static void test_ambiguity_is_bounded(void **state) {
    (void)state;
    guide_plan *plan = plan_of(&v, GUIDE_GBNF, "root ::= x\nx ::= \"a\" x \"b\" | \"a\" x \"c\" | \"d\"", "");
    guide *g = guide_of(plan);
    nib_error err = {""};
    const double from = cpu_seconds();
    size_t n = 0;
    while (guide_accept(g, 'a'))
        assert_true(++n < 1000);
    assert_int_equal(guide_failure(g, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "too many ways"));
    assert_null(guide_mask(g));
    assert_true(cpu_seconds() - from < 2);
    guide_close(g);
    assert_true(plan_allows(plan, "aadbc"));
    guide_plan_release(plan);
}

/* ---- languages ---- */

static const language *language_of(grammar_builder *b, arena *a, const char *pattern) {
    return language_of_regex(b, a, regex_read(b, a, strview_of(pattern), true, "test"));
}

static void test_languages(void **state) {
    (void)state;
    grammar_builder *b;
    arena a = {0};
    nib_error err = {""};
    assert_int_equal(grammar_builder_open(&b, &err), NIB_OK);
    const language *x = language_of(b, &a, "(?:ab|c)*[x-z]{1,2}");
    const language *y = language_and(b, &a, x, language_of_length(b, &a, 2, 3));
    const language *z = language_not(b, &a, x);
    const strview words[] = {strview_of("abx"), strview_of("x"), strview_of("")};
    const language *w = language_and(b, &a, z, language_of_words(b, &a, words, 3));
    static const struct {
        const char *text;
        bool x, y, z, w;
    } cases[] = {{"x", 1, 0, 0, 0},  {"abx", 1, 1, 0, 0}, {"ccxy", 1, 0, 0, 0}, {"", 0, 0, 1, 1},
                 {"ab", 0, 0, 1, 0}, {"xyz", 0, 0, 1, 0}, {"cz", 1, 1, 0, 0},   {"\xC3\xA9", 0, 0, 1, 0}};
    assert_int_equal(grammar_builder_status(b, &err), NIB_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const strview text = strview_of(cases[i].text);
        assert_int_equal(language_has(x, text), cases[i].x);
        assert_int_equal(language_has(y, text), cases[i].y);
        assert_int_equal(language_has(z, text), cases[i].z);
        assert_int_equal(language_has(w, text), cases[i].w);
    }
    assert_false(language_is_empty(&a, w));
    assert_true(language_is_empty(&a, language_and(b, &a, x, z)));
    assert_null(language_of(b, &a, "(?:a|b)*a(?:a|b){20}"));
    assert_int_equal(grammar_builder_status(b, &err), NIB_UNSUPPORTED);
    grammar_builder_close(b);
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_regex),         cmocka_unit_test(test_regex_refusals),
        cmocka_unit_test(test_choice),        cmocka_unit_test(test_gbnf),
        cmocka_unit_test(test_gbnf_refusals), cmocka_unit_test(test_ambiguity_is_bounded),
        cmocka_unit_test(test_languages),
    };
    return cmocka_run_group_tests(tests, open_vocabulary, close_vocabulary);
}
