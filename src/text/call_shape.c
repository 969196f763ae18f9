/* SPDX-License-Identifier: Apache-2.0
 *
 * Which calls, and what may stand between them. What comes out is what chat_reader.c reads.
 */
#include "text/call_shape.h"

#include "base/json.h"
#include "text/call_form.h"

typedef struct call_shape {
    call_form form;
    grammar_builder *b;
    bool single, is_free;
    grammar_node item; /* any of the calls */
} call_shape;

static const chat_format *find_format(const char *name) {
    for (const chat_format *f = chat_formats; name && f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

static grammar_node fail(grammar_builder *b, const char *what) {
    return grammar_fail(b, NIB_BAD_ARGUMENT, "the tools to call: %s", what);
}

/* NODE as a rule: it is used several times and written once. */
static grammar_node once(grammar_builder *b, grammar_node node) {
    const uint32_t rule = grammar_rule(b, (strview){"", 0});
    grammar_define(b, rule, node);
    return grammar_use(b, rule);
}

/* ---- the calls ---- */

static grammar_node one_of(call_shape *s, const json_t *tools, const char *wanted) {
    grammar_builder *b = s->b;
    grammar_node all = GRAMMAR_NEVER;
    size_t i, n = 0;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function"), *name = json_object_get(function, "name");
        if (grammar_failed(b))
            break;
        if (!json_is_string(name) || json_string_length(name) == 0)
            return fail(b, "expected a function with a name in each");
        if (wanted && strcmp(wanted, json_string_value(name)) != 0)
            continue;
        const bool loose = s->is_free && !json_is_true(json_object_get(function, "strict"));
        const grammar_node node =
            call_form_item(&s->form, (strview){json_string_value(name), json_string_length(name)},
                           json_object_get(function, "parameters"), loose);
        all = n++ ? GRAMMAR_ALT(b, all, node) : node;
    }
    return n > 0 ? once(b, all)
                 : fail(b, wanted ? "none has the name that was asked for" : "expected at least one");
}

static grammar_node word(call_shape *s, const char *text) {
    return grammar_word(s->b, text ? text : "");
}

/* X, and more of them on the same line or the next. */
static grammar_node several(call_shape *s, grammar_node x) {
    const grammar_node more = GRAMMAR_SEQ(s->b, call_form_lines(&s->form), x);
    return s->single ? x : GRAMMAR_SEQ(s->b, x, grammar_repeat(s->b, more, 0, CALL_FORM_MAX - 1));
}

/* From behind section_open to the end of the section. */
static grammar_node section_opened(call_shape *s, grammar_node opened) {
    const chat_format *f = &s->form.marks;
    const grammar_node call = GRAMMAR_SEQ(s->b, word(s, f->call_open), opened);
    const grammar_node lines = call_form_lines(&s->form);
    return GRAMMAR_SEQ(s->b, lines, s->form.plain->section_each ? call : several(s, once(s->b, call)), lines,
                       word(s, f->section_close));
}

/* Calls, and nothing else. */
static grammar_node calls_only(call_shape *s) {
    const chat_format *f = &s->form.marks;
    grammar_builder *b = s->b;
    if (s->form.plain->shape == CHAT_BARE)
        return s->item;
    const grammar_node opened = call_form_opened(&s->form, s->item, s->single);
    const grammar_node section = f->section_open ? section_opened(s, opened) : GRAMMAR_NEVER;
    const grammar_node call = f->section_open ? GRAMMAR_SEQ(b, word(s, f->section_open), section)
                                              : GRAMMAR_SEQ(b, word(s, f->call_open), opened);
    const bool repeats = !f->section_open || s->form.plain->section_each;
    return GRAMMAR_SEQ(b, call_form_lines(&s->form), repeats ? several(s, once(b, call)) : call);
}

/* ---- calls that may come ---- */

typedef struct mark_list {
    grammar_mark list[8];
    size_t n;
} mark_list;

/* What begins a call, as text and as the vocabulary's control tokens, and what must follow. */
static void add_mark(call_shape *s, mark_list *marks, const char *plain, bool at_start, grammar_node then) {
    const char *spelled = call_form_spell(&s->form, plain);
    marks->list[marks->n++] = (grammar_mark){strview_of(spelled), then, at_start};
    if (strcmp(plain, spelled) != 0)
        marks->list[marks->n++] = (grammar_mark){strview_of(plain), then, at_start};
}

static void add_harmony_marks(call_shape *s, mark_list *marks, grammar_node then) {
    add_mark(s, marks, " to=functions.", true, then);
    add_mark(s, marks, "<|start|>assistant to=functions.", false, then);
    add_mark(s, marks, "<|channel|>commentary to=functions.", false, then);
}

static void add_object_marks(call_shape *s, mark_list *marks, grammar_node then) {
    const char *start = call_form_start(&s->form);
    const char *tagged = arena_format(&s->form.a, "%s%s", s->form.plain->call_open, start);
    add_mark(s, marks, start, true, then);
    add_mark(s, marks, tagged ? tagged : start, false, then);
}

/* Any text; a call that begins in it is held to its schema, and text follows it, unless it is the only one.
 */
static grammar_node calls_in_text(call_shape *s) {
    const chat_format *f = s->form.plain;
    grammar_builder *b = s->b;
    mark_list marks = {.n = 0};
    const uint32_t text = grammar_rule(b, (strview){"", 0});
    const grammar_node after = s->single ? call_form_lines(&s->form) : grammar_use(b, text);
    const grammar_node opened = once(b, call_form_opened(&s->form, s->item, s->single));
    const grammar_node then = GRAMMAR_SEQ(b, opened, after);
    if (f->shape == CHAT_HARMONY)
        add_harmony_marks(s, &marks, s->item); /* a call ends the answer */
    else if (f->shape == CHAT_BARE)
        add_object_marks(s, &marks, s->item);
    else
        add_mark(s, &marks, f->call_open, false, then);
    if (f->section_open)
        add_mark(s, &marks, f->section_open, false, GRAMMAR_SEQ(b, section_opened(s, opened), after));
    grammar_define(b, text, grammar_until(b, marks.list, marks.n, true));
    return grammar_use(b, text);
}

/* ---- harmony ---- */

/* Messages of reasoning, then a call, whose recipient stands behind the role or behind the channel. */
static grammar_node harmony_call(call_shape *s) {
    grammar_builder *b = s->b;
    call_form *m = &s->form;
    const uint32_t all = grammar_rule(b, (strview){"", 0});
    const grammar_mark end = {strview_of(call_form_spell(m, "<|end|><|start|>assistant")),
                              grammar_use(b, all), false};
    const grammar_node reasoning =
        GRAMMAR_SEQ(b, grammar_word(b, call_form_spell(m, "<|channel|>analysis<|message|>")),
                    grammar_until(b, &end, 1, false));
    const grammar_node to = grammar_word(b, call_form_spell(m, "<|channel|>commentary to=functions."));
    grammar_define(
        b, all,
        GRAMMAR_ALT(b, reasoning,
                    GRAMMAR_SEQ(b, GRAMMAR_ALT(b, to, grammar_word(b, " to=functions.")), s->item)));
    return grammar_use(b, all);
}

/* ---- read ---- */

static grammar_node read_object(grammar_builder *b, const json_t *json, const tokenizer *t) {
    const chat_format *f = find_format(json_string_value(json_object_get(json, "format")));
    const char *name = json_string_value(json_object_get(json, "name"));
    call_shape s = {.b = b,
                    .single = name || json_is_true(json_object_get(json, "single")),
                    .is_free = json_is_true(json_object_get(json, "free"))};
    if (s.is_free && !f)
        return fail(b, "calls that need not come need a format that says where they begin");
    call_form_open(&s.form, b, t, f);
    if (s.is_free && f->shape == CHAT_BARE)
        call_form_skip_start(&s.form);
    s.item = one_of(&s, json_object_get(json, "tools"), name);
    const grammar_node all = s.is_free                             ? calls_in_text(&s)
                             : s.form.plain->shape == CHAT_HARMONY ? harmony_call(&s)
                                                                   : calls_only(&s);
    call_form_close(&s.form);
    return all;
}

grammar_node call_shape_read(grammar_builder *b, strview text, const tokenizer *t) {
    json_t *json;
    nib_error err = {""};
    const nib_status status = json_read(&json, text.p, text.n, "the tools to call", &err);
    if (status != NIB_OK)
        return grammar_fail(b, status == NIB_BAD_FILE ? NIB_BAD_ARGUMENT : status, "%s", err.text);
    const grammar_node node = json_is_object(json) ? read_object(b, json, t) : fail(b, "expected an object");
    json_decref(json);
    return node;
}
