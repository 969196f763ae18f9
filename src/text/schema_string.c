/* SPDX-License-Identifier: Apache-2.0
 *
 * Strings: length, pattern, format. One of them alone is written as it is; several are put together as
 * languages.
 */
#include "text/schema_parts.h"

#define DIGIT "[0-9]"
#define HEX   "[0-9A-Fa-f]"
#define H16   HEX "{1,4}"
#define MONTH_DAY                                                                                            \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"                \
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define YEAR "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#define LEAP "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE "(?:" YEAR "-" MONTH_DAY "|" LEAP "-02-29)"
#define TIME                                                                                                 \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define OCTET     "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define LABEL     "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define COLONS(n) "(?:" H16 ":){1," #n "}"
#define GROUPS(n) "(?::" H16 "){1," #n "}"
#define IPV4      OCTET "(?:\\." OCTET "){3}"
#define IPV6                                                                                                 \
    "(?:(?:" H16 ":){7}" H16 "|" COLONS(7) ":|" COLONS(6) ":" H16 "|" COLONS(5) GROUPS(2) "|" COLONS(4)      \
        GROUPS(3) "|" COLONS(3) GROUPS(4) "|" COLONS(2) GROUPS(5) "|" COLONS(1)                              \
            GROUPS(6) "|:(?:" GROUPS(7) "|:)|(?:" H16 ":){6}" IPV4 "|::(?:" H16 ":){0,5}" IPV4               \
                                        "|" COLONS(5) ":" IPV4 "|" COLONS(4)                                 \
                                            GROUPS(1) ":" IPV4 "|" COLONS(3)                                 \
                                                GROUPS(2) ":" IPV4 "|" COLONS(2)                             \
                                                    GROUPS(3) ":" IPV4 "|" COLONS(1) GROUPS(4) ":" IPV4 ")"
#define PCHAR     "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%" HEX "{2})"
#define REG       "(?:[A-Za-z0-9._~!$&'()*+,;=-]|%" HEX "{2})"
#define TAIL      "(?:\\?(?:" PCHAR "|[/?])*)?(?:#(?:" PCHAR "|[/?])*)?"
#define AUTHORITY "//(?:(?:" REG "|:){0,64}@)?(?:" REG "+|\\[" IPV6 "\\])(?::[0-9]{1,5})?(?:/" PCHAR "*)*"
#define URI       "[A-Za-z][A-Za-z0-9+.-]{0,31}:(?:" AUTHORITY "|/?" PCHAR "+(?:/" PCHAR "*)*)" TAIL
#define ATOM      "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"

static const char *format_pattern(const char *format) {
    static const struct {
        const char *name, *pattern;
    } known[] = {
        {"date", DATE},
        {"time", TIME},
        {"date-time", DATE "T" TIME},
        {"duration",
         "P(?:[0-9]{1,9}W|(?:[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?|"
         "[0-9]{1,9}D)(?:T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|"
         "[0-9]{1,9}S))?|T(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|"
         "[0-9]{1,9}S))"},
        {"uuid", HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}"},
        {"email", ATOM "{1,64}(?:\\." ATOM "{1,32}){0,8}@" LABEL "(?:\\." LABEL "){0,8}"},
        {"hostname", LABEL "(?:\\." LABEL "){0,3}"},
        {"ipv4", IPV4},
        {"ipv6", IPV6},
        {"uri", URI},
        {"uri-reference", "(?:" URI "|" AUTHORITY TAIL "|/(?:" PCHAR "+(?:/" PCHAR "*)*)?" TAIL "|" REG
                          "+(?:/" PCHAR "*)*" TAIL "|" TAIL ")"},
        {"json-pointer", "(?:/(?:[^/~]|~[01])*)*"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, format) == 0)
            return known[i].pattern;
    return NULL;
}

/* Formats of JSON Schema that are not held to; other names are no formats of it and say nothing. */
static bool is_unsupported_format(const char *format) {
    static const char *const names[] = {"idn-email",    "idn-hostname",          "iri",  "iri-reference",
                                        "uri-template", "relative-json-pointer", "regex"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], format) == 0)
            return true;
    return false;
}

#define MAX_PATTERNS 8

typedef struct limits {
    const regex *patterns[MAX_PATTERNS]; /* all must hold */
    unsigned n_patterns;
    uint32_t min, max;
    bool has_length;
} limits;

static bool add_pattern(schema_compiler *c, limits *l, const char *pattern, bool whole, const char *keyword) {
    char where[SCHEMA_MAX_PATH + 32];
    if (l->n_patterns == MAX_PATTERNS)
        return schema_refuse(c, keyword, "too many patterns for one string") != GRAMMAR_NEVER;
    snprintf(where, sizeof where, "%s at \"#%s\"", keyword, c->path);
    l->patterns[l->n_patterns] = regex_read(c->b, &c->a, strview_of(pattern), whole, where);
    return l->patterns[l->n_patterns++] != NULL;
}

static bool read_limits(schema_compiler *c, const json_t *schema, limits *l) {
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    *l = (limits){.max = GRAMMAR_NO_MAX};
    if (pattern && !json_is_string(pattern))
        return schema_refuse(c, "pattern", "expected a string") != GRAMMAR_NEVER;
    if (pattern && !add_pattern(c, l, json_string_value(pattern), false, "pattern"))
        return false;
    size_t i;
    json_t *more; /* of schemas merged into this one */
    json_array_foreach(json_object_get(schema, "$patterns"), i, more) {
        if (json_is_string(more) && !add_pattern(c, l, json_string_value(more), false, "pattern"))
            return false;
    }
    if (format && !json_is_string(format))
        return schema_refuse(c, "format", "expected a string") != GRAMMAR_NEVER;
    if (format && is_unsupported_format(json_string_value(format)))
        return schema_refuse(c, "format", "this format is not supported") != GRAMMAR_NEVER;
    const char *of_format = format ? format_pattern(json_string_value(format)) : NULL;
    if (of_format && !add_pattern(c, l, of_format, true, "format"))
        return false;
    l->has_length = json_object_get(schema, "minLength") || json_object_get(schema, "maxLength");
    return schema_count(c, schema, "minLength", &l->min) && schema_count(c, schema, "maxLength", &l->max);
}

static const language *limits_language(schema_compiler *c, const limits *l) {
    const language *all = NULL;
    for (unsigned i = 0; i < l->n_patterns; i++) {
        const language *one = language_of_regex(c->b, &c->a, l->patterns[i]);
        all = i ? language_and(c->b, &c->a, all, one) : one;
    }
    if (!l->has_length)
        return all;
    const language *length = language_of_length(c->b, &c->a, l->min, l->max);
    return l->n_patterns ? language_and(c->b, &c->a, all, length) : length;
}

const language *schema_string_language(schema_compiler *c, const json_t *schema, bool *is_free) {
    limits l;
    *is_free = false;
    if (!read_limits(c, schema, &l))
        return NULL;
    *is_free = l.n_patterns == 0 && !l.has_length;
    return *is_free ? NULL : limits_language(c, &l);
}

/* One pattern whose texts are long enough by themselves; the largest length is counted as they are read. */
static grammar_node limited_pattern(schema_compiler *c, const limits *l) {
    if (l->max == GRAMMAR_NO_MAX)
        return regex_node(c->b, l->patterns[0], SPELL_JSON);
    if (regex_least(l->patterns[0]) > l->max)
        return GRAMMAR_NEVER;
    return grammar_limit(c->b, regex_node(c->b, l->patterns[0], SPELL_JSON_COUNTED), l->max);
}

/* The text of a string that has limits. */
static grammar_node limited_text(schema_compiler *c, const limits *l) {
    const bool raw = schema_is_raw(c);
    if (raw && l->n_patterns == 0)
        return schema_raw_text(c, l->min, l->max);
    if (raw)
        return language_node(c->b, schema_raw_language(c, limits_language(c, l)), SPELL_PLAIN);
    if (l->n_patterns == 0)
        return grammar_repeat(c->b, spell_free_char(c->b), l->min, l->max);
    if (l->n_patterns == 1 && l->min <= regex_least(l->patterns[0]))
        return limited_pattern(c, l);
    return language_node(c->b, limits_language(c, l), SPELL_JSON);
}

static grammar_node string_of(schema_compiler *c, const json_t *schema) {
    limits l;
    if (!read_limits(c, schema, &l))
        return GRAMMAR_NEVER;
    if (l.n_patterns == 0 && !l.has_length)
        return c->manner.mode == SCHEMA_RAW ? schema_raw_text(c, 0, GRAMMAR_NO_MAX)
                                            : grammar_use(c->b, c->string);
    return schema_quoted(c, limited_text(c, &l));
}

static bool same_value(const json_t *x, const json_t *y) {
    return x == y || (x && y && json_equal((json_t *)x, (json_t *)y));
}

grammar_node schema_string(schema_compiler *c, const json_t *schema) {
    static const char *const keywords[] = {"pattern", "format", "minLength", "maxLength"};
    struct schema_string_rule asked = {.manner = c->manner};
    bool any = false;
    for (size_t k = 0; k < 4; k++) {
        asked.asked[k] = json_object_get(schema, keywords[k]);
        any |= asked.asked[k] != NULL;
    }
    if (!any || json_object_get(schema, "$patterns") ||
        c->n_strings == sizeof c->strings / sizeof *c->strings)
        return string_of(c, schema);
    for (size_t i = 0; i < c->n_strings; i++) {
        bool same = schema_manner_is(c->strings[i].manner, asked.manner);
        for (size_t k = 0; k < 4 && same; k++)
            same = same_value(c->strings[i].asked[k], asked.asked[k]);
        if (same)
            return grammar_use(c->b, c->strings[i].rule);
    }
    const grammar_node body = string_of(c, schema);
    asked.rule = grammar_rule(c->b, (strview){"", 0});
    grammar_define(c->b, asked.rule, body);
    c->strings[c->n_strings++] = asked;
    return grammar_use(c->b, asked.rule);
}
