/* SPDX-License-Identifier: Apache-2.0
 *
 * See call_form.h.
 */
#include "text/call_form.h"

#include "base/json.h"
#include "text/chat_calls.h"
#include "text/schema.h"
#include "text/spell.h"
#include "text/trie.h"

/* ---- marks ---- */

const char *call_form_spell(call_form *m, const char *text) {
    text_buffer spelled = {0};
    nib_error err = {""};
    const nib_status status = trie_spell(m->t, strview_of(text ? text : ""), &spelled, &err);
    char *copy = status == NIB_OK ? arena_text(&m->a, spelled.n ? spelled.bytes : "", spelled.n) : NULL;
    text_buffer_free(&spelled);
    if (!copy)
        grammar_fail(m->b, NIB_NO_MEMORY, "no memory for the tools to call");
    return copy ? copy : "";
}

void call_form_open(call_form *m, grammar_builder *b, const tokenizer *t, const chat_format *f) {
    static const chat_format bare = {.name = "", .shape = CHAT_BARE};
    *m = (call_form){.b = b, .t = t, .plain = f ? f : &bare};
    m->marks = *m->plain;
    const char **const fields[] = {&m->marks.section_open, &m->marks.section_close, &m->marks.call_open,
                                   &m->marks.call_close,   &m->marks.name_end,      &m->marks.head_end,
                                   &m->marks.param_open,   &m->marks.key_end,       &m->marks.value_open,
                                   &m->marks.param_close,  &m->marks.quote};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (*fields[i])
            *fields[i] = call_form_spell(m, *fields[i]);
    if (!m->marks.object)
        m->marks.object = "{\"name\": \"%\", \"arguments\": ";
    if (!m->marks.object_end)
        m->marks.object_end = "}";
}

void call_form_close(call_form *m) {
    arena_free(&m->a);
}

static grammar_node word(call_form *m, const char *text) {
    return grammar_word(m->b, text ? text : "");
}

grammar_node call_form_lines(call_form *m) {
    return grammar_repeat(m->b, grammar_byte(m->b, '\n', '\n'), 0, 2);
}

/* TEXT (NULL: nothing) with NAME for %, a number for # and nine letters or digits for @. */
static grammar_node fill(call_form *m, const char *text, strview name, spelling how) {
    grammar_builder *b = m->b;
    const grammar_node digit = grammar_byte(b, '0', '9');
    grammar_node all = GRAMMAR_EMPTY;
    for (const char *p = text ? text : ""; *p;) {
        const size_t plain = strcspn(p, "%#@");
        const grammar_node letter =
            GRAMMAR_ALT(b, digit, grammar_byte(b, 'a', 'z'), grammar_byte(b, 'A', 'Z'));
        const grammar_node hole = p[plain] == '%'   ? spell_text(b, name, how)
                                  : p[plain] == '#' ? grammar_repeat(b, digit, 1, 3)
                                  : p[plain] == '@' ? grammar_repeat(b, letter, 9, 9)
                                                    : GRAMMAR_EMPTY;
        all = GRAMMAR_SEQ(b, all, grammar_text(b, (strview){p, plain}), hole);
        p += plain + (p[plain] != '\0');
    }
    return all;
}

/* ---- arguments ---- */

static bool is_json(const chat_format *f) {
    return !f->param_open && !f->quote;
}

/* Can SCHEMA be held to? A builder that fails stays so: it is tried on another one. */
static bool can_hold(strview schema, const schema_form *form) {
    grammar_builder *trial;
    nib_error err;
    if (grammar_builder_open(&trial, &err) != NIB_OK)
        return false;
    schema_read_as(trial, schema, form);
    const bool can = !grammar_failed(trial);
    grammar_builder_close(trial);
    return can;
}

/* Arguments that are held to SCHEMA; LOOSE: to nothing but the format where that cannot be. */
static grammar_node arguments(call_form *m, const json_t *schema, bool loose) {
    const chat_format *f = m->plain;
    const char *stop = f->quote ? f->quote : f->param_close ? f->param_close : "";
    schema_form own = {.marks = &m->marks, .stop = {stop, strcspn(stop, "%")}};
    const schema_form *form = is_json(f) ? NULL : &own;
    char *text = json_is_object(schema) ? json_dumps(schema, JSON_COMPACT) : NULL;
    if (json_is_object(schema) && !text)
        return grammar_fail(m->b, NIB_NO_MEMORY, "no memory for the schema of a tool");
    const bool held = text && !(loose && !can_hold(strview_of(text), form));
    own.repeats = !held && loose;
    const grammar_node node = schema_read_as(m->b, strview_of(held ? text : "{}"), form);
    json_text_free(text);
    return node;
}

/* ---- calls ---- */

static grammar_node object_item(call_form *m, strview name, grammar_node args) {
    return GRAMMAR_SEQ(m->b, fill(m, m->marks.object, name, SPELL_JSON), args,
                       fill(m, m->marks.object_end, name, SPELL_JSON));
}

const char *call_form_start(call_form *m) {
    const char *object = m->plain->object, *start = arena_text(&m->a, object, strcspn(object, "%"));
    if (!start)
        grammar_fail(m->b, NIB_NO_MEMORY, "no memory for the tools to call");
    return start ? start : "";
}

void call_form_skip_start(call_form *m) {
    m->marks.object += strcspn(m->marks.object, "%");
}

static grammar_node named_item(call_form *m, strview name, grammar_node args) {
    const chat_format *f = m->plain;
    const grammar_node last = f->param_open ? call_form_lines(m) : grammar_option(m->b, word(m, f->last));
    return GRAMMAR_SEQ(m->b, fill(m, f->name_form ? f->name_form : "%", name, SPELL_PLAIN),
                       word(m, m->marks.name_end), fill(m, f->head, name, SPELL_PLAIN),
                       word(m, m->marks.head_end), args, last, word(m, m->marks.call_close));
}

static grammar_node mistral_item(call_form *m, strview name, grammar_node args) {
    const grammar_node id =
        GRAMMAR_SEQ(m->b, word(m, call_form_spell(m, "[CALL_ID]")), fill(m, "@", name, SPELL_PLAIN));
    return GRAMMAR_SEQ(m->b, grammar_text(m->b, name), grammar_option(m->b, id), word(m, m->marks.name_end),
                       args);
}

/* From the name in a head on; the channel stands before or behind it. */
static grammar_node harmony_item(call_form *m, strview name, grammar_node args) {
    grammar_builder *b = m->b;
    const grammar_node channel = word(m, call_form_spell(m, "<|channel|>commentary"));
    const grammar_node type =
        GRAMMAR_ALT(b, word(m, call_form_spell(m, " <|constrain|>json")), grammar_word(b, " json"));
    return GRAMMAR_SEQ(b, grammar_text(b, name), grammar_option(b, channel), grammar_option(b, type),
                       word(m, call_form_spell(m, "<|message|>")), args,
                       grammar_option(b, word(m, call_form_spell(m, "<|call|>"))));
}

grammar_node call_form_item(call_form *m, strview name, const json_t *schema, bool loose) {
    const chat_format *f = m->plain;
    if (!chat_is_name(name))
        return grammar_fail(m->b, NIB_UNSUPPORTED,
                            "the tools to call: no format can write the name \"%.40s\"", name.p);
    const grammar_node args = arguments(m, schema, loose);
    switch (f->shape) {
    case CHAT_NAMED:
        return named_item(m, name, args);
    case CHAT_MISTRAL:
        return f->first ? object_item(m, name, args) : mistral_item(m, name, args);
    case CHAT_GEMMA:
        return GRAMMAR_SEQ(m->b, grammar_text(m->b, name), args, word(m, m->marks.call_close));
    case CHAT_HARMONY:
        return harmony_item(m, name, args);
    case CHAT_NO_CALLS:
    case CHAT_OBJECT:
    case CHAT_BARE:
        break;
    }
    return object_item(m, name, args);
}

grammar_node call_form_opened(call_form *m, grammar_node item, bool single) {
    const chat_format *f = m->plain;
    grammar_builder *b = m->b;
    if (f->shape != CHAT_OBJECT && !f->first)
        return item;
    const grammar_node more =
        f->next && !single ? grammar_repeat(b, GRAMMAR_SEQ(b, word(m, f->next), item), 0, CALL_FORM_MAX - 1)
                           : GRAMMAR_EMPTY;
    return GRAMMAR_SEQ(b, word(m, f->first), item, more, word(m, f->last), word(m, m->marks.call_close));
}
