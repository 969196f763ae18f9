/* SPDX-License-Identifier: Apache-2.0
 *
 * Arguments as families of models write them that use no JSON: parameters as tags around raw text, and
 * strings between marks of their own. Raw text has no escapes: whatever ends it cannot be in it.
 */
#include <stdio.h>

#include "base/utf8.h"
#include "text/chat_format.h"
#include "text/schema_parts.h"

#define MAX_NAME 256 /* bytes of a parameter's name (chat_tags.c) */

/* ---- raw text ---- */

static const language *language_of(schema_compiler *c, const char *pattern, bool whole) {
    return language_of_regex(c->b, &c->a, regex_read(c->b, &c->a, strview_of(pattern), whole, "raw text"));
}

/* All texts that do not hold TEXT, nor NUL. */
static const language *texts_without(schema_compiler *c, strview text) {
    char pattern[1024] = "";
    size_t n = 0;
    for (size_t i = 0; i < text.n && n + 16 < sizeof pattern;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)text.p + i, &bytes);
        n += (size_t)snprintf(pattern + n, sizeof pattern - n, "\\u{%X}", (unsigned)code);
        i += bytes;
    }
    const language *with = language_of(c, pattern, false);
    return language_and(c->b, &c->a, language_not(c->b, &c->a, with),
                        language_of(c, "[\\u{1}-\\u{10FFFF}]*", true));
}

void schema_form_start(schema_compiler *c) {
    const schema_form *form = c->form;
    c->bare = form && form->marks->quote;
    c->quote = c->bare ? grammar_word(c->b, form->marks->quote) : grammar_byte(c->b, '"', '"');
    if (!form)
        return;
    c->raw_texts = texts_without(c, form->stop);
    c->raw = grammar_rule(c->b, (strview){"", 0});
    grammar_define(c->b, c->raw, language_node(c->b, c->raw_texts, SPELL_PLAIN));
}

const language *schema_bare_names(schema_compiler *c) {
    return language_of(c, "[A-Za-z_$][A-Za-z0-9_.$-]{0,31}", true);
}

/* Texts that nobody takes for a value of the types in c->manner.mistake. */
static const language *without_mistakes(schema_compiler *c, const language *x) {
    const bool numbers = c->manner.mistake & (TYPE_NUMBER | TYPE_INTEGER);
    const bool brackets = c->manner.mistake & (TYPE_OBJECT | TYPE_ARRAY);
    char pattern[128];
    if (!numbers && !brackets)
        return x;
    snprintf(pattern, sizeof pattern, "[ \\t\\r\\n]*(?:[^ \\t\\r\\n%s%s][\\u{1}-\\u{10FFFF}]*)?",
             brackets ? "{\\[" : "", numbers ? "0-9\\-" : "");
    return language_and(c->b, &c->a, x, language_of(c, pattern, true));
}

const language *schema_raw_language(schema_compiler *c, const language *x) {
    return without_mistakes(c, language_and(c->b, &c->a, x, c->raw_texts));
}

bool schema_is_raw_text(const schema_compiler *c, strview text) {
    static const struct {
        const char *word;
        unsigned type;
    } words[] = {{"null", TYPE_NULL},    {"None", TYPE_NULL},     {"true", TYPE_BOOLEAN},
                 {"True", TYPE_BOOLEAN}, {"false", TYPE_BOOLEAN}, {"False", TYPE_BOOLEAN}};
    const unsigned mistake = c->manner.mistake;
    size_t blank = 0;
    while (blank < text.n && strchr(" \t\r\n", text.p[blank]))
        blank++;
    const char first = blank < text.n ? text.p[blank] : ' ';
    if ((mistake & (TYPE_OBJECT | TYPE_ARRAY) && strchr("{[", first)) ||
        (mistake & (TYPE_NUMBER | TYPE_INTEGER) && strchr("-0123456789", first)))
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (mistake & words[i].type && strview_is(text, words[i].word))
            return false;
    return language_has(c->raw_texts, text);
}

/* Characters that cannot begin what ends raw text, but ALSO not those. */
static grammar_node careful_char(schema_compiler *c, const char *also) {
    char pattern[64];
    snprintf(pattern, sizeof pattern, "[^\\u{0}\\u{%X}%s]", (unsigned)(unsigned char)c->form->stop.p[0],
             also);
    return regex_node(c->b, regex_read(c->b, &c->a, strview_of(pattern), true, "raw text"), SPELL_PLAIN);
}

grammar_node schema_raw_text(schema_compiler *c, uint32_t min, uint32_t max) {
    grammar_builder *b = c->b;
    const unsigned mistake = c->manner.mistake & (TYPE_NUMBER | TYPE_INTEGER | TYPE_OBJECT | TYPE_ARRAY);
    if (min == 0 && max == GRAMMAR_NO_MAX && !mistake)
        return grammar_use(b, c->raw);
    if (min <= 1 && max == GRAMMAR_NO_MAX)
        return language_node(b, schema_raw_language(c, language_of_length(b, &c->a, min, max)), SPELL_PLAIN);
    /* counted characters take less than a language of them */
    const grammar_node one = careful_char(c, ""),
                       first = mistake ? careful_char(c, " \\t\\r\\n{\\[0-9\\-") : one;
    if (max == 0)
        return GRAMMAR_EMPTY;
    const grammar_node some = GRAMMAR_SEQ(
        b, first, grammar_repeat(b, one, min ? min - 1 : 0, max == GRAMMAR_NO_MAX ? max : max - 1));
    return GRAMMAR_ALT(b, min ? GRAMMAR_NEVER : GRAMMAR_EMPTY, some);
}

/* ---- tags ---- */

static grammar_node line(schema_compiler *c) {
    return grammar_byte(c->b, '\n', '\n');
}

/* May it be that not every number of the types that SCHEMA allows is allowed? */
static bool has_number_limits(const json_t *schema, int depth) {
    static const char *const limits[] = {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const", "$ref"};
    static const char *const lists[] = {"anyOf", "oneOf", "allOf"};
    size_t i;
    const json_t *one;
    bool has = depth > 8;
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++)
        has |= json_object_get(schema, limits[k]) != NULL;
    for (size_t k = 0; k < sizeof lists / sizeof *lists && !has; k++)
        json_array_foreach(json_object_get(schema, lists[k]), i, one) {
            has |= has_number_limits(one, depth + 1);
        }
    return has;
}

/* What a reader who knows TYPES of SCHEMA (0: none) may take a text for, and be wrong. */
static unsigned mistakes(unsigned types, const json_t *schema) {
    if (types == TYPE_STRING || (types == 0 && !(schema && schema_constrains(schema))))
        return 0;
    unsigned others = (types ? types : TYPE_ALL) & ~(unsigned)TYPE_STRING;
    if (!has_number_limits(schema, 0))
        others &= ~(unsigned)(TYPE_NUMBER | TYPE_INTEGER);
    return others;
}

typedef struct parameter {
    const char *name; /* NULL: one that is not declared */
    json_t *schema;   /* NULL: any */
    unsigned types;   /* that a reader knows of it; 0: none */
} parameter;

/* A value in MANNER, with what stands between it and the parameter's name. */
static grammar_node value_as(schema_compiler *c, const parameter *p, const char *attribute,
                             schema_manner manner) {
    const chat_format *f = c->form->marks;
    grammar_builder *b = c->b;
    const schema_manner before = c->manner;
    const grammar_node lines = f->value_lines ? line(c) : GRAMMAR_EMPTY;
    c->manner = manner;
    const grammar_node value =
        p->schema ? schema_node(c, p->schema, p->name ? "properties" : "additionalProperties", p->name)
                  : schema_any(c);
    c->manner = before;
    return GRAMMAR_SEQ(b, grammar_word(b, attribute), grammar_word(b, f->value_open), lines, value, lines);
}

/* A value with the attribute that says what it is. */
static grammar_node value_with_attribute(schema_compiler *c, const parameter *p) {
    static const struct {
        const char *attribute;
        unsigned only;
    } ways[] = {
        {" string=\"true\"", TYPE_STRING},   {" string=\"false\"", TYPE_ALL & ~TYPE_STRING},
        {" type=\"string\"", TYPE_STRING},   {" type=\"number\"", TYPE_NUMBER | TYPE_INTEGER},
        {" type=\"object\"", TYPE_OBJECT},   {" type=\"array\"", TYPE_ARRAY},
        {" type=\"boolean\"", TYPE_BOOLEAN}, {" type=\"null\"", TYPE_NULL},
    };
    const char *name = c->form->marks->types;
    grammar_node all = GRAMMAR_NEVER;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        const bool wanted = strncmp(ways[i].attribute + 1, name, strlen(name)) == 0;
        const unsigned only = ways[i].only & (p->types ? p->types : TYPE_ALL);
        if (wanted && only)
            all = GRAMMAR_ALT(c->b, all,
                              value_as(c, p, ways[i].attribute,
                                       (schema_manner){.mode = SCHEMA_RAW, .only = (uint8_t)only}));
    }
    return all;
}

static grammar_node parameter_name(schema_compiler *c, const char *name) {
    static const char odd[] = "<>\"'=\r\n\t";
    if (!name)
        return language_node(c->b, schema_bare_names(c), SPELL_PLAIN);
    if (!*name || strlen(name) > MAX_NAME || strpbrk(name, odd))
        return schema_refuse(c, "properties", "the model's format cannot write this name");
    return grammar_word(c->b, name);
}

/* What closes the tag of NAME: its mark, with the name in place of a %. */
static grammar_node closing(schema_compiler *c, const char *name) {
    const char *mark = c->form->marks->param_close, *hole = strchr(mark, '%');
    if (!hole)
        return grammar_word(c->b, mark);
    return GRAMMAR_SEQ(c->b, grammar_text(c->b, (strview){mark, (size_t)(hole - mark)}),
                       parameter_name(c, name), grammar_word(c->b, hole + 1));
}

grammar_node schema_parameter(schema_compiler *c, const char *name, json_t *schema) {
    const chat_format *f = c->form->marks;
    grammar_builder *b = c->b;
    const unsigned types = name ? schema_types_of_property(c->root, name) : schema_types_of(c->root, schema);
    const parameter p = {name, schema, types};
    const unsigned only = types == 0 || types & TYPE_STRING ? TYPE_ALL : TYPE_ALL & ~TYPE_STRING;
    const bool may_break = f->key_end[strlen(f->key_end) - 1] == '>' && *f->value_open;
    if (!name && strchr(f->param_close, '%'))
        return GRAMMAR_NEVER; /* a grammar cannot say the same name again */
    const grammar_node value = f->types
                                   ? value_with_attribute(c, &p)
                                   : value_as(c, &p, "",
                                              (schema_manner){.mode = SCHEMA_RAW,
                                                              .only = (uint8_t)only,
                                                              .mistake = (uint8_t)mistakes(types, schema)});
    return GRAMMAR_SEQ(b, grammar_option(b, line(c)), grammar_word(b, f->param_open), parameter_name(c, name),
                       grammar_word(b, f->key_end), may_break ? grammar_option(b, line(c)) : GRAMMAR_EMPTY,
                       value, closing(c, name));
}
