/* SPDX-License-Identifier: Apache-2.0
 *
 * A model's chat template: opened from its files, rendered, encoded. What lies between two control tokens is
 * one text, the template's words and the user's together, because merges may cross from one to the other.
 */
#include "text/chat.h"

#include "base/mem.h"
#include "text/chat_parts.h"

/* ---- open ---- */

static nib_status keep_text(char **out, strview text, nib_error *err) {
    if (!text.p)
        return NIB_OK;
    *out = mem_copy_text(text.p, text.n);
    return *out ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for the chat template");
}

nib_status chat_open(chat **out, strview template_text, strview bos, strview eos, nib_error *err) {
    *out = NULL;
    chat *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the chat template");
    nib_status status = jinja_open(&c->code, template_text, err);
    if (status == NIB_OK)
        status = keep_text(&c->bos, bos, err);
    if (status == NIB_OK)
        status = keep_text(&c->eos, eos, err);
    if (status == NIB_OK)
        status = chat_probe(c, template_text, err);
    if (status != NIB_OK) {
        chat_close(c);
        return status;
    }
    *out = c;
    return NIB_OK;
}

void chat_close(chat *c) {
    if (!c)
        return;
    jinja_close(c->code);
    mem_free(c->bos);
    mem_free(c->eos);
    mem_free(c);
}

static strview text_of(const char *text) {
    return text ? strview_of(text) : (strview){0};
}

void chat_tokens_of(const chat *c, strview *bos, strview *eos) {
    *bos = text_of(c->bos);
    *eos = text_of(c->eos);
}

/* A token of tokenizer_config.json: a text, or an object with its content. */
static strview config_token(const json_t *config, const char *name) {
    const json_t *token = json_object_get(config, name);
    if (json_is_object(token))
        token = json_object_get(token, "content");
    return json_is_string(token) ? (strview){json_string_value(token), json_string_length(token)}
                                 : (strview){0};
}

static strview piece_of(const tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < tokenizer_vocab(t) ? tokenizer_piece(t, id, true) : (strview){0};
}

nib_status chat_open_model(chat **out, const token_source *s, const tokenizer *t, strview bos, strview eos,
                           nib_error *err) {
    *out = NULL;
    if (s->chat_template.n == 0)
        return nib_fail(err, NIB_UNSUPPORTED, "the model has no chat template");
    json_t *config = NULL;
    if (s->config_json.n)
        NIB_TRY(json_read(&config, s->config_json.p, s->config_json.n, s->where, err));
    if (!bos.p)
        bos = config_token(config, "bos_token");
    if (!eos.p)
        eos = config_token(config, "eos_token");
    if (!bos.p)
        bos = piece_of(t, s->json.n ? -1 : tokenizer_bos(t));
    if (!eos.p)
        eos = piece_of(t, s->json.n ? -1 : s->eos);
    const nib_status status = chat_open(out, s->chat_template, bos, eos, err);
    json_decref(config);
    return status;
}

const char *chat_call_format(const chat *c) {
    return c->format ? c->format->name : NULL;
}

const char *chat_reasoning_marker(const chat *c) {
    return c->thinking                                     ? c->thinking->open
           : c->format && c->format->shape == CHAT_HARMONY ? "analysis"
                                                           : NULL;
}

const char *chat_reasoning_end(const chat *c) {
    if (c->thinking)
        return c->thinking->close;
    const bool harmony = c->format && c->format->shape == CHAT_HARMONY;
    return harmony ? "<|end|><|start|>assistant<|channel|>final<|message|>" : NULL;
}

const char *chat_answer_begin(const chat *c) {
    return c->format && c->format->shape == CHAT_HARMONY ? "<|channel|>final<|message|>" : NULL;
}

bool chat_takes_tools(const chat *c) {
    return c->takes_tools;
}

/* ---- render ---- */

#define MAX_VARIABLES 64

static nib_status render(const chat *c, const chat_request *q, const json_t *messages, chat_prompt *out,
                         nib_error *err) {
    jinja_variable variables[MAX_VARIABLES] = {
        {.name = "messages", .json = messages},
        {.name = "tools", .json = q->tools ? q->tools : json_null()},
        {.name = "documents", .json = json_null()},
        {.name = "add_generation_prompt", .json = json_boolean(!q->no_generation_prompt)},
    };
    size_t n = 4;
    if (c->bos)
        variables[n++] = (jinja_variable){.name = "bos_token", .text = strview_of(c->bos)};
    if (c->eos)
        variables[n++] = (jinja_variable){.name = "eos_token", .text = strview_of(c->eos)};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)q->kwargs, name, value) {
        if (n == MAX_VARIABLES)
            return nib_fail(err, NIB_BAD_ARGUMENT, "more than %d variables for the chat template",
                            MAX_VARIABLES - 6);
        variables[n++] = (jinja_variable){.name = name, .json = value};
    }
    const jinja_options options = {.variables = variables,
                                   .n_variables = n,
                                   .roles = chat_roles,
                                   .now = q->now,
                                   .max_steps = q->max_steps,
                                   .max_bytes = q->max_bytes};
    jinja_output text;
    NIB_TRY(jinja_render(c->code, &options, &text, err));
    *out = (chat_prompt){text.text, text.marks, text.n};
    return NIB_OK;
}

nib_status chat_render(const chat *c, const chat_request *q, chat_prompt *out, nib_error *err) {
    memset(out, 0, sizeof *out);
    if (q->tools && !json_is_array(q->tools))
        return nib_fail(err, NIB_BAD_ARGUMENT, "the tools are no list");
    if (q->kwargs && !json_is_object(q->kwargs))
        return nib_fail(err, NIB_BAD_ARGUMENT, "the variables for the chat template are no object");
    json_t *messages;
    NIB_TRY(chat_prepare(q->messages, &messages, err));
    const nib_status status = render(c, q, messages, out, err);
    json_decref(messages);
    return status;
}

void chat_prompt_free(chat_prompt *p) {
    mem_free(p->text);
    mem_free(p->marks);
    memset(p, 0, sizeof *p);
}

/* ---- encode ---- */

nib_status chat_encode(const tokenizer *t, const chat_prompt *p, token_list *out, nib_error *err) {
    return tokenizer_encode_marked(t, p->text, p->n, p->marks, out, err);
}

nib_status chat_tokens(const chat *c, const tokenizer *t, const nib_message *messages, size_t n_messages,
                       token_list *out, nib_error *err) {
    json_t *json;
    NIB_TRY(chat_messages(messages, n_messages, &json, err));
    chat_prompt prompt;
    nib_status status = chat_render(c, &(chat_request){.messages = json}, &prompt, err);
    if (status == NIB_OK)
        status = chat_encode(t, &prompt, out, err);
    chat_prompt_free(&prompt);
    json_decref(json);
    return status;
}
