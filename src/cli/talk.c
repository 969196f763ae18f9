/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations on the terminal: reasoning dimmed, calls of tools as NAME(ARGUMENTS) in a line of their own.
 */
#include "cli/talk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/outfile.h"
#include "cli/files.h"
#include "cli/ui.h"
#include "store/model_file.h"

/* Forms that many models take, for files that name none. */
static const char *const sources[][2] = {
    {"chatml",
     "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"llama3",
     "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + "
     "m.content | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"gemma", "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == "
              "'assistant' else m.role) + "
              "'\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}"
              "{{ '<start_of_turn>model\\n' }}{% endif %}"},
};

static nib_status no_memory(nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "out of memory for the conversation");
}

/* ---- open ---- */

static nib_status read_file(const char *path, char **text, nib_error *err) {
    char *bytes;
    size_t n;
    NIB_TRY(files_read(path, &bytes, &n, err));
    *text = mem_copy_text(bytes, n);
    mem_free(bytes);
    return *text ? NIB_OK : no_memory(err);
}

nib_status talk_read_template(const char *model, const char *name, char **text, nib_error *err) {
    model_file *f;
    *text = NULL;
    if (!name)
        return NIB_OK;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (strcmp(name, sources[i][0]) == 0) {
            *text = mem_copy_text(sources[i][1], strlen(sources[i][1]));
            return *text ? NIB_OK : no_memory(err);
        }
    const nib_status as_file = read_file(name, text, err);
    if (as_file != NIB_IO)
        return as_file;
    NIB_TRY(model_file_open_words(&f, model, err));
    const nib_status status = model_file_template(f, name, text, err);
    model_file_close(f);
    if (status != NIB_OK || *text)
        return status;
    return nib_fail(err, NIB_IO,
                    "%s: cannot be read as a template's file, and is neither a template of the model's nor "
                    "one of chatml, "
                    "llama3, gemma",
                    name);
}

static nib_status read_tools(talk *t, const char *path, nib_error *err) {
    json_t *json;
    NIB_TRY(files_read_json(path, &json, err));
    const bool list = json_is_array(json) && json_array_size(json) > 0;
    t->tools = list ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!list)
        return nib_fail(err, NIB_BAD_FILE, "%s: expected a JSON list of tools", path);
    return t->tools ? NIB_OK : no_memory(err);
}

nib_status talk_open(talk *t, const nib_engine *engine, const talk_options *o, nib_error *err) {
    char *text;
    NIB_TRY(talk_read_template(o->model, o->template_name, &text, err));
    nib_status status = nib_chat_open(&t->chat, engine, text, err);
    mem_free(text);
    NIB_TRY(status);
    t->info.size = sizeof t->info;
    NIB_TRY(nib_chat_get_info(t->chat, &t->info, err));
    t->show_reasoning = o->show_reasoning;
    t->quiet = o->quiet;
    t->messages = json_array();
    if (!t->messages)
        return no_memory(err);
    if (o->system)
        NIB_TRY(talk_set_system(t, o->system, err));
    if (!o->tools)
        return NIB_OK;
    if (!t->info.call_format)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "the chat template writes no calls of tools in a form that nibble reads; "
                        "--chat-template FILE gives another, for a model that was taught its calls");
    if (!t->info.takes_tools)
        fprintf(stderr, "nibble: the chat template says nothing of tools: the model is told of none\n");
    return read_tools(t, o->tools, err);
}

void talk_close(talk *t) {
    nib_reader_close(t->reader);
    nib_chat_close(t->chat);
    json_decref(t->messages);
    json_decref(t->answer);
    free(t->tools);
    memset(t, 0, sizeof *t);
}

/* ---- messages ---- */

nib_status talk_add(talk *t, const char *role, const char *content, nib_error *err) {
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (!message)
        return nib_fail(err, NIB_BAD_ARGUMENT, "the text is no UTF-8");
    return json_array_append_new(t->messages, message) == 0 ? NIB_OK : no_memory(err);
}

static bool has_role(const json_t *message, const char *role) {
    return message && strcmp(json_string_value(json_object_get(message, "role")), role) == 0;
}

static bool is_question(const json_t *message) {
    return has_role(message, "user");
}

/* 1: a system message stands first. */
static size_t n_system(const talk *t) {
    return has_role(json_array_get(t->messages, 0), "system");
}

nib_status talk_set_system(talk *t, const char *text, nib_error *err) {
    if (n_system(t))
        json_array_remove(t->messages, 0);
    if (!text)
        return NIB_OK;
    json_t *message = json_pack("{s:s, s:s}", "role", "system", "content", text);
    if (!message)
        return nib_fail(err, NIB_BAD_ARGUMENT, "the system message is no UTF-8");
    return json_array_insert_new(t->messages, 0, message) == 0 ? NIB_OK : no_memory(err);
}

void talk_take_back_question(talk *t) {
    const size_t n = json_array_size(t->messages);
    if (n > 0 && is_question(json_array_get(t->messages, n - 1)))
        json_array_remove(t->messages, n - 1);
}

bool talk_take_back_answer(talk *t) {
    size_t n = json_array_size(t->messages);
    while (n > 0 && !is_question(json_array_get(t->messages, n - 1)))
        n--;
    for (size_t i = json_array_size(t->messages); n > 0 && i > n; i--)
        json_array_remove(t->messages, i - 1);
    return n > 0;
}

bool talk_drop_oldest(talk *t) {
    const size_t first = n_system(t);
    size_t n = first + 1;
    while (n < json_array_size(t->messages) && !is_question(json_array_get(t->messages, n)))
        n++;
    if (n >= json_array_size(t->messages))
        return false;
    for (; n > first; n--)
        json_array_remove(t->messages, first);
    return true;
}

void talk_clear(talk *t) {
    const size_t first = n_system(t);
    for (size_t i = json_array_size(t->messages); i > first; i--)
        json_array_remove(t->messages, i - 1);
}

const json_t *talk_last(const talk *t) {
    const size_t n = json_array_size(t->messages);
    return n ? json_array_get(t->messages, n - 1) : NULL;
}

nib_status talk_save(const talk *t, const char *path, nib_error *err) {
    char *text = json_dumps(t->messages, JSON_INDENT(1));
    outfile *f;
    if (!text)
        return no_memory(err);
    nib_status status = outfile_open(&f, path, err);
    if (status == NIB_OK) {
        status = outfile_write(f, text, strlen(text), err);
        if (status == NIB_OK)
            status = outfile_write(f, "\n", 1, err);
        if (status == NIB_OK)
            status = outfile_commit(f, err);
        else
            outfile_abandon(f);
    }
    free(text);
    return status;
}

nib_status talk_load(talk *t, const char *path, nib_error *err) {
    json_t *list, *message;
    size_t i;
    NIB_TRY(files_read_json(path, &list, err));
    bool sound = json_is_array(list);
    json_array_foreach(list, i, message) {
        sound = sound && json_is_string(json_object_get(message, "role"));
    }
    if (!sound) {
        json_decref(list);
        return nib_fail(err, NIB_BAD_FILE, "%s: expected a JSON list of messages, each an object with a role",
                        path);
    }
    json_decref(t->messages);
    t->messages = list;
    return NIB_OK;
}

nib_status talk_ids(talk *t, int32_t **ids, size_t *n_ids, nib_error *err) {
    char *messages = json_dumps(t->messages, JSON_COMPACT);
    if (!messages)
        return no_memory(err);
    nib_reader_close(t->reader);
    json_decref(t->answer);
    t->reader = NULL;
    t->answer = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
    t->printed = false;
    t->last = '\n';
    const nib_conversation c = {.size = sizeof c, .messages = messages, .tools = t->tools};
    const nib_status status =
        t->answer ? nib_chat_render(t->chat, &c, ids, n_ids, &t->reader, err) : no_memory(err);
    free(messages);
    return status;
}

/* ---- the answer at hand ---- */

static void print(talk *t, const char *text, size_t n, bool dim) {
    if (t->quiet)
        return;
    if (dim != t->dimmed)
        fputs(ui_color(stdout, dim ? UI_DIM : UI_RESET), stdout);
    t->dimmed = dim;
    ui_put_text(stdout, ui_is_terminal(stdout), text, n);
    t->last = n ? text[n - 1] : t->last;
    t->printed |= n > 0;
}

static void end_line(talk *t) {
    if (t->last != '\n')
        print(t, "\n", 1, false);
}

/* Appends TEXT to the string NAME of OBJECT. */
static bool append(json_t *object, const char *name, const char *text, size_t n) {
    json_t *old = json_object_get(object, name);
    const size_t had = old ? json_string_length(old) : 0;
    char *both = mem_alloc(had + n + 1);
    if (!both)
        return false;
    if (had)
        memcpy(both, json_string_value(old), had);
    memcpy(both + had, text, n);
    const bool fits = json_object_set_new(object, name, json_stringn(both, had + n)) == 0;
    mem_free(both);
    return fits;
}

static bool add_call(talk *t, const nib_piece *piece) {
    char id[32]; /* where the format has none: nine letters, which Mistral's template wants */
    snprintf(id, sizeof id, "call%05zu", json_array_size(t->messages) * 10 + (size_t)piece->call);
    json_t *calls = json_object_get(t->answer, "tool_calls");
    if (!calls && json_object_set_new(t->answer, "tool_calls", calls = json_array()) != 0)
        return false;
    json_t *call = json_pack("{s:s%, s:s, s:{s:s%, s:s}}", "id", piece->id_bytes ? piece->id : id,
                             piece->id_bytes ? piece->id_bytes : strlen(id), "type", "function", "function",
                             "name", piece->text, piece->text_bytes, "arguments", "");
    return call && json_array_append_new(calls, call) == 0;
}

static void take_piece(void *context, const nib_piece *piece) {
    talk *t = context;
    const bool reasoning = piece->kind == NIB_PIECE_REASONING;
    bool fits = true;
    switch (piece->kind) {
    case NIB_PIECE_TEXT:
    case NIB_PIECE_REASONING:
        fits = append(t->answer, reasoning ? "reasoning_content" : "content", piece->text, piece->text_bytes);
        if (t->dimmed && !reasoning)
            end_line(t);
        if (!reasoning || t->show_reasoning)
            print(t, piece->text, piece->text_bytes, reasoning);
        break;
    case NIB_PIECE_CALL:
        fits = add_call(t, piece);
        end_line(t);
        print(t, piece->text, piece->text_bytes, false);
        print(t, "(", 1, false);
        break;
    case NIB_PIECE_ARGUMENTS:
        fits = append(
            json_object_get(json_array_get(json_object_get(t->answer, "tool_calls"), (size_t)piece->call),
                            "function"),
            "arguments", piece->text, piece->text_bytes);
        print(t, piece->text, piece->text_bytes, false);
        print(t, ")\n", 2, false);
        break;
    }
    if (!fits)
        t->failed = NIB_NO_MEMORY;
    fflush(stdout);
}

nib_status talk_push(talk *t, const char *text, size_t n, nib_error *err) {
    NIB_TRY(nib_reader_push(t->reader, text, n, take_piece, t, err));
    return t->failed == NIB_OK ? NIB_OK : no_memory(err);
}

nib_status talk_end(talk *t, nib_error *err) {
    NIB_TRY(nib_reader_end(t->reader, take_piece, t, err));
    if (t->dimmed)
        print(t, "", 0, false);
    if (!t->printed)
        t->last = ' '; /* an empty answer is a line too */
    end_line(t);
    return t->failed == NIB_OK ? NIB_OK : no_memory(err);
}

nib_status talk_keep_answer(talk *t, nib_error *err) {
    json_t *answer = t->answer;
    t->answer = NULL;
    return json_array_append_new(t->messages, answer) == 0 ? NIB_OK : no_memory(err);
}

/* ---- calls ---- */

static const json_t *last_calls(const talk *t) {
    return json_object_get(json_array_get(t->messages, json_array_size(t->messages) - 1), "tool_calls");
}

size_t talk_n_calls(const talk *t) {
    return json_array_size(last_calls(t));
}

const char *talk_call(const talk *t, size_t i) {
    const json_t *function = json_object_get(json_array_get(last_calls(t), i), "function");
    return json_string_value(json_object_get(function, "name"));
}

nib_status talk_add_results(talk *t, const char *const *texts, size_t n, nib_error *err) {
    json_t *calls = json_incref((json_t *)last_calls(t));
    bool fits = true;
    for (size_t i = 0; i < n && fits; i++) {
        const json_t *call = json_array_get(calls, i);
        json_t *message = json_pack(
            "{s:s, s:O, s:O, s:s}", "role", "tool", "tool_call_id", json_object_get(call, "id"), "name",
            json_object_get(json_object_get(call, "function"), "name"), "content", texts[i]);
        fits = message && json_array_append_new(t->messages, message) == 0;
    }
    json_decref(calls);
    return fits ? NIB_OK : nib_fail(err, NIB_BAD_ARGUMENT, "a result is no UTF-8 text");
}
