/* SPDX-License-Identifier: Apache-2.0
 *
 * Which format a template writes: it renders a conversation with reasoning and a call, and the row of the
 * table that reads the call back, name and arguments, is the model's. A template that writes no calls of its
 * own may still tell the model how to: then the row whose marker stands in its text. A template that says the
 * same with tools as without leaves them out.
 */
#include "base/mem.h"
#include "text/chat_calls.h"
#include "text/chat_parts.h"

#define NAME "look_it_up"

static const char tools_json[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"" NAME
    "\", \"description\": \"Looks.\", \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\", \"description\": \"Which.\"}, "
    "\"days\": {\"type\": \"integer\", \"description\": \"How many.\"}}, \"required\": [\"city\"]}}}]";

/* Content empty or null, arguments an object or its text: templates differ in what they take. */
static const char *const asked = "[{\"role\": \"user\", \"content\": \"Where?\"}]";
#define CALL(content)                                                                                        \
    "[{\"role\": \"user\", \"content\": \"Where?\"}, {\"role\": \"assistant\", \"content\": " content        \
    ", \"reasoning_content\": \"Hm.\", \"tool_calls\": [{\"id\": \"abcdefgh1\", \"type\": \"function\", "    \
    "\"function\": {\"name\": \"" NAME "\", \"arguments\": {\"city\": \"Lima\", \"days\": 2}}}]}]"
static const char *const called[] = {CALL("\"\""), CALL("null"), NULL};

/* Renders JSON; *text is NULL when the template refuses. */
static nib_status render(const chat *c, const char *messages, const json_t *tools, char **text,
                         nib_error *err) {
    json_t *json;
    chat_prompt prompt;
    *text = NULL;
    NIB_TRY(json_read(&json, messages, strlen(messages), "probe", err));
    const chat_request q = {.messages = json,
                            .tools = tools,
                            .no_generation_prompt = true,
                            .now = 1,
                            .max_steps = 200000,
                            .max_bytes = (size_t)64 << 20};
    const nib_status status = chat_render(c, &q, &prompt, err);
    json_decref(json);
    if (status == NIB_OK)
        *text = prompt.text;
    mem_free(prompt.marks);
    return status == NIB_NO_MEMORY ? status : NIB_OK;
}

/* ---- does a row read it back? ---- */

static bool is_the_call(const chat_calls *calls) {
    if (calls->n != 1 || !strview_is(chat_calls_text(calls, calls->list[0].name), NAME))
        return false;
    const strview arguments = chat_calls_text(calls, calls->list[0].arguments);
    const strview city = chat_span_member(arguments, "city"), days = chat_span_member(arguments, "days");
    return strview_is(city, "\"Lima\"") && strview_is(days, "2");
}

static const char *find(const char *text, const char *mark) {
    return mark ? strstr(text, mark) : NULL;
}

static nib_status reads_back(const chat_format *f, const char *text, const json_t *tools, bool *out,
                             nib_error *err) {
    const char *at = find(text, f->section_open ? f->section_open : f->call_open);
    if (!at && f->shape == CHAT_BARE)
        at = strchr(text, '{');
    *out = false;
    if (at && f->shape == CHAT_MISTRAL) {
        const char *behind = at + strlen(f->call_open);
        if ((behind[strspn(behind, " ")] == '[') != (f->first != NULL))
            return NIB_OK;
    }
    if (f->shape == CHAT_HARMONY)
        *out = strstr(text, "to=functions." NAME "<|channel|>commentary") != NULL;
    if (!at)
        return NIB_OK;
    chat_calls calls = {0};
    chat_found found;
    size_t used;
    const nib_status status = chat_calls_read(f, tools, strview_of(at), true, &calls, &found, &used, err);
    *out = status == NIB_OK && found == CHAT_WHOLE && is_the_call(&calls);
    chat_calls_free(&calls);
    return status;
}

static bool holds(strview text, const char *mark) {
    return mark && text.n && memmem(text.p, text.n, mark, strlen(mark));
}

static void find_thinking(chat *c, strview text) {
    for (const chat_thinking *t = chat_thinkings; t->open && !c->thinking; t++)
        if (holds(text, t->close))
            c->thinking = t;
}

static nib_status find_row(chat *c, const char *base, const char *text, const json_t *tools, nib_error *err) {
    size_t same = 0; /* what a template says before the call may hold examples */
    while (base && base[same] && base[same] == text[same])
        same++;
    if (strstr(text + same, "Hm."))
        find_thinking(c, strview_of(text + same));
    for (const chat_format *f = chat_formats; f->name && !c->format; f++) {
        bool reads;
        NIB_TRY(reads_back(f, text + same, tools, &reads, err));
        if (reads)
            c->format = f;
    }
    return NIB_OK;
}

static nib_status try_call(chat *c, const char *messages, const json_t *offered, const json_t *tools,
                           nib_error *err) {
    char *base = NULL, *text = NULL;
    nib_status status = render(c, asked, offered, &base, err);
    if (status == NIB_OK)
        status = render(c, messages, offered, &text, err);
    if (status == NIB_OK && text)
        status = find_row(c, base, text, tools, err);
    mem_free(base);
    mem_free(text);
    return status;
}

/* A prompt with tools is another one than without, or is refused. */
static nib_status find_tools(chat *c, const json_t *tools, nib_error *err) {
    char *with = NULL, *without = NULL;
    nib_status status = render(c, asked, tools, &with, err);
    if (status == NIB_OK)
        status = render(c, asked, NULL, &without, err);
    c->takes_tools = !with || !without || strcmp(with, without) != 0;
    mem_free(with);
    mem_free(without);
    return status;
}

/* ---- by the template's words ---- */

static void find_words(chat *c, strview text) {
    for (const chat_format *f = chat_formats; f->name && !c->format; f++) {
        const bool section = f->section_open ? holds(text, f->section_open) : true;
        const bool is_list = f->shape == CHAT_MISTRAL && f->first;
        const bool named =
            f->name_end && strlen(f->name_end) > 2 && !is_list ? holds(text, f->name_end) : true;
        if (f->shape != CHAT_HARMONY && section && named && holds(text, f->call_open))
            c->format = f;
    }
    find_thinking(c, text);
}

nib_status chat_probe(chat *c, strview template_text, nib_error *err) {
    nib_error unheard = {""};
    json_t *tools;
    NIB_TRY(json_read(&tools, tools_json, sizeof tools_json - 1, "probe", err));
    nib_status status = NIB_OK;
    if (jinja_names(c->code, "tools") || holds(template_text, "tool_calls"))
        for (size_t i = 0; called[i] && !c->format && status == NIB_OK; i++) {
            status = try_call(c, called[i], tools, tools, &unheard);
            if (status == NIB_OK && !c->format)
                status = try_call(c, called[i], NULL, tools, &unheard);
        }
    if (status == NIB_OK)
        status = find_tools(c, tools, &unheard);
    json_decref(tools);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s", unheard.text);
    find_words(c, template_text);
    if (c->format && c->format->shape == CHAT_HARMONY)
        c->thinking = NULL;
    return NIB_OK;
}
