/* SPDX-License-Identifier: Apache-2.0
 *
 * jansson refuses trailing bytes, invalid UTF-8, NUL in strings and nesting past 2048 by itself; duplicate
 * keys on request. Its allocators belong to the whole process and are left alone.
 *
 * tokenizer_config.json files in the wild hold "model_max_length": 1000000000000000019884624838656, which
 * jansson refuses as too big an integer. Such integers are read as reals: a field that must be an integer
 * is still refused by its reader.
 */
#include "base/json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Of memory for a byte of text: a list of small numbers takes about 20. */
enum { BYTES_PER_BYTE = 24 };

/* jansson takes a refused allocation in its lexer for the end of the text and would blame the file. So what a
 * text may need is asked for first, and given back for jansson to take. */
static bool there_is_memory(size_t n) {
    size_t bytes;
    void *block = __builtin_mul_overflow(n, (size_t)BYTES_PER_BYTE, &bytes) ? NULL : mem_alloc(bytes);
    mem_free(block);
    return block;
}

static json_t *load(const void *bytes, size_t n, size_t flags, json_error_t *problem) {
    return json_loadb(bytes, n, flags | JSON_DECODE_ANY, problem);
}

/* Rewrites the integer literal of N characters at P, if it is too big for one, as a real: its last two digits
 * become an exponent of 2. What they said is less than half the last bit of a double. Nothing is printed:
 * the host's locale may have a decimal comma. */
static void integer_as_real(char *p, size_t n) {
    char *end;
    errno = 0;
    strtoll(p, &end, 10);
    if (errno != ERANGE || end != p + n)
        return;
    memcpy(p + n - 2, "e2", 2);
}

static bool is_number_byte(char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/* Big integers of the text become reals, in place; strings are skipped. */
static void soften_integers(char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        if (text[i] == '"') {
            for (i++; i < n && text[i] != '"'; i++)
                if (text[i] == '\\')
                    i++;
            i++;
        } else if (text[i] == '-' || (text[i] >= '0' && text[i] <= '9')) {
            size_t from = i;
            bool real = false;
            for (; i < n && is_number_byte(text[i]); i++)
                real |= text[i] == '.' || text[i] == 'e' || text[i] == 'E';
            if (!real && i - from >= 19)
                integer_as_real(text + from, i - from);
        } else {
            i++;
        }
    }
}

/* LINE: of WHERE; 0: the text's own are told. */
static nib_status parse(json_t **out, const void *bytes, size_t n, size_t flags, const char *where,
                        size_t line, nib_error *err) {
    json_error_t problem = {0};
    *out = NULL;
    if (!there_is_memory(n))
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
    *out = load(bytes, n, flags, &problem);
    if (!*out && json_error_code(&problem) == json_error_numeric_overflow) {
        char *copy = mem_copy_text(bytes, n);
        if (!copy)
            return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
        soften_integers(copy, n);
        *out = load(copy, n, flags, &problem);
        mem_free(copy);
    }
    if (*out)
        return NIB_OK;
    if (json_error_code(&problem) == json_error_out_of_memory || problem.text[0] == '\0')
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
    const bool is_nul = json_error_code(&problem) == json_error_null_character;
    return nib_fail(err, NIB_BAD_FILE, "%s: not valid JSON%s, line %zu: %s", where, is_nul ? " here" : "",
                    line ? line : (size_t)problem.line,
                    is_nul ? "a text holds \\u0000; expected none" : problem.text);
}

nib_status json_read(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err) {
    return parse(out, bytes, n, JSON_REJECT_DUPLICATES, where, 0, err);
}

nib_status json_read_line(json_t **out, const void *bytes, size_t n, const char *where, size_t line,
                          nib_error *err) {
    return parse(out, bytes, n, JSON_REJECT_DUPLICATES, where, line, err);
}

nib_status json_read_written(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err) {
    return parse(out, bytes, n, 0, where, 0, err);
}

void json_text_free(char *text) {
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    if (text)
        release(text);
}
