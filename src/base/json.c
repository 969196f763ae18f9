/* SPDX-License-Identifier: Apache-2.0
 *
 * jansson refuses trailing bytes, invalid UTF-8, NUL in strings and nesting past 2048 by itself; duplicate
 * keys on request. Its memory comes from base/mem.h, so that a failing allocation can be tested.
 *
 * tokenizer_config.json files in the wild hold "model_max_length": 1000000000000000019884624838656, which
 * jansson refuses as too big an integer. Such integers are read as reals: a field that must be an integer
 * is still refused by its reader.
 */
#include "base/json.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static void use_our_memory(void) {
    json_set_alloc_funcs(mem_alloc, mem_free);
}

/* Rewrites the integer literal of N digits and sign at P as a real of at most N characters. */
static void integer_as_real(char *p, size_t n) {
    char literal[400], real[64];
    if (n >= sizeof literal)
        return; /* past any double: jansson refuses it */
    memcpy(literal, p, n);
    literal[n] = '\0';
    errno = 0;
    strtoll(literal, NULL, 10);
    if (errno != ERANGE)
        return;
    int length = snprintf(real, sizeof real, "%.12e", strtod(literal, NULL));
    if (length <= 0 || (size_t)length > n)
        return;
    memset(p, ' ', n);
    memcpy(p, real, (size_t)length);
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

nib_status json_read(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_our_memory);

    const size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    json_error_t problem = {0};
    *out = json_loadb(bytes, n, flags, &problem);
    if (!*out && json_error_code(&problem) == json_error_numeric_overflow) {
        char *copy = mem_copy_text(bytes, n);
        if (!copy)
            return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
        soften_integers(copy, n);
        *out = json_loadb(copy, n, flags, &problem);
        mem_free(copy);
    }
    if (*out)
        return NIB_OK;
    if (json_error_code(&problem) == json_error_out_of_memory || problem.text[0] == '\0')
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
    return nib_fail(err, NIB_BAD_FILE, "%s: not valid JSON, line %d: %s", where, problem.line, problem.text);
}
