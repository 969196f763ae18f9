/* SPDX-License-Identifier: Apache-2.0
 *
 * Types as OpenAI's, llama.cpp's and Anthropic's clients know them.
 */
#include "serve/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

static const struct {
    int status;
    const char *type, *anthropic;
} kinds[API_N_KINDS] = {
    [API_NO_ERROR] = {200, "", ""},
    [API_INVALID] = {400, "invalid_request_error", "invalid_request_error"},
    [API_TOO_LONG] = {400, "exceed_context_size_error", "invalid_request_error"},
    [API_UNAUTHORIZED] = {401, "authentication_error", "authentication_error"},
    [API_FORBIDDEN] = {403, "permission_error", "permission_error"},
    [API_NOT_FOUND] = {404, "not_found_error", "not_found_error"},
    [API_WRONG_METHOD] = {405, "invalid_request_error", "invalid_request_error"},
    [API_TOO_LARGE] = {413, "invalid_request_error", "request_too_large"},
    [API_BUSY] = {429, "rate_limit_error", "rate_limit_error"},
    [API_FAILED] = {500, "server_error", "api_error"},
    [API_UNAVAILABLE] = {503, "unavailable_error", "overloaded_error"},
    [API_TOO_SLOW] = {504, "timeout_error", "api_error"},
};

bool api_error_set(api_error *e, api_kind kind, const char *param, const char *format, ...) {
    if (e->kind != API_NO_ERROR)
        return false;
    va_list args;
    va_start(args, format);
    e->kind = kind;
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    if (param)
        snprintf(e->param, sizeof e->param, "%s", param);
    /* Cut or quoted, it stays a text that JSON can hold. */
    e->message[utf8_valid_prefix(e->message, strlen(e->message))] = 0;
    e->param[utf8_valid_prefix(e->param, strlen(e->param))] = 0;
    return false;
}

/* A sentence of ours that begins with a field's 'name' is about it. */
static const char *field_of(const char *words, char name[64]) {
    const size_t n = *words == '\'' ? strspn(words + 1, "abcdefghijklmnopqrstuvwxyz_") : 0;
    if (n == 0 || n >= 64 || words[1 + n] != '\'')
        return NULL;
    memcpy(name, words + 1, n);
    name[n] = 0;
    return name;
}

bool api_error_from(api_error *e, nib_status status, const nib_error *words) {
    static const api_kind by_status[] = {
        [NIB_OK] = API_FAILED,        [NIB_BAD_ARGUMENT] = API_INVALID,
        [NIB_BAD_FILE] = API_FAILED,  [NIB_UNSUPPORTED] = API_INVALID,
        [NIB_NO_MEMORY] = API_FAILED, [NIB_IO] = API_FAILED,
        [NIB_CANCELLED] = API_FAILED, [NIB_BUSY] = API_BUSY,
    };
    const bool known = (size_t)status < sizeof by_status / sizeof *by_status;
    const api_kind kind = known ? by_status[status] : API_FAILED;
    char name[64];
    return api_error_set(e, kind, kind == API_INVALID ? field_of(words->text, name) : NULL, "%s",
                         words->text);
}

int api_error_status(const api_error *e) {
    return kinds[e->kind].status;
}

static json_t *openai(const api_error *e) {
    json_t *o = json_pack("{s:s, s:s, s:s?, s:i}", "message", e->message, "type", kinds[e->kind].type,
                          "param", e->param[0] ? e->param : NULL, "code", kinds[e->kind].status);
    if (o && e->code)
        json_object_set_new(o, "code", json_string(e->code));
    if (o && e->kind == API_TOO_LONG) {
        json_object_set_new(o, "n_prompt_tokens", json_integer(e->n_prompt));
        json_object_set_new(o, "n_ctx", json_integer(e->n_ctx));
    }
    return json_pack("{s:o}", "error", o);
}

json_t *api_error_json(const api_error *e, api_style style) {
    if (style == API_STYLE_ANTHROPIC)
        return json_pack("{s:s, s:{s:s, s:s}}", "type", "error", "error", "type", kinds[e->kind].anthropic,
                         "message", e->message);
    return openai(e);
}
