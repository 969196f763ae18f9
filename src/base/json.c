/* SPDX-License-Identifier: Apache-2.0
 *
 * jansson refuses trailing bytes, invalid UTF-8, NUL in strings and nesting past 2048 by itself; duplicate
 * keys on request. Its memory comes from base/mem.h, so that a failing allocation can be tested (unless the
 * program around the library has given jansson allocators of its own).
 *
 * Its lexer does not survive one by itself (it drops a byte and asserts on it later), so a failed allocation
 * jumps out of the parser, and what the parser held by then is freed from a record kept on the side.
 *
 * tokenizer_config.json files in the wild hold "model_max_length": 1000000000000000019884624838656, which
 * jansson refuses as too big an integer. Such integers are read as reals: a field that must be an integer
 * is still refused by its reader.
 */
#include "base/json.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* What a parse did with a block: its address, the lowest bit set where it was freed. */
typedef struct event {
    uintptr_t block;
    size_t order;
} event;

/* The parse this thread is in. */
static _Thread_local struct parse {
    bool running;
    jmp_buf out_of_memory;
    event *events;
    size_t n, capacity;
} parse;

/* Room for one more event, or out of the parser. */
static void reserve_event(void) {
    if (parse.n < parse.capacity)
        return;
    size_t wanted = parse.capacity ? 2 * parse.capacity : 256;
    event *grown = mem_resize(parse.events, wanted, sizeof *grown);
    if (!grown)
        longjmp(parse.out_of_memory, 1);
    parse.events = grown;
    parse.capacity = wanted;
}

static void *tracked_alloc(size_t bytes) {
    if (!parse.running)
        return mem_alloc(bytes);
    reserve_event();
    void *block = mem_alloc(bytes);
    if (!block)
        longjmp(parse.out_of_memory, 1);
    parse.events[parse.n] = (event){(uintptr_t)block, parse.n};
    parse.n++;
    return block;
}

static void tracked_free(void *block) {
    if (parse.running && block) {
        reserve_event();
        parse.events[parse.n] = (event){(uintptr_t)block | 1, parse.n};
        parse.n++;
    }
    mem_free(block);
}

static int event_compare(const void *a, const void *b) {
    const event *x = a, *y = b;
    uintptr_t p = x->block & ~(uintptr_t)1, q = y->block & ~(uintptr_t)1;
    return p != q ? (p > q) - (p < q) : (x->order > y->order) - (x->order < y->order);
}

/* Frees what the parser held: the blocks whose last event is not that they were freed. */
static void free_held(void) {
    if (parse.n > 1)
        qsort(parse.events, parse.n, sizeof *parse.events, event_compare);
    for (size_t i = 0; i < parse.n; i++) {
        bool last = i + 1 == parse.n || (parse.events[i].block | 1) != (parse.events[i + 1].block | 1);
        if (last && !(parse.events[i].block & 1))
            mem_free((void *)parse.events[i].block);
    }
}

/* jansson's allocators belong to the whole process: those that a program has set are left alone. */
static void use_our_memory(void) {
    json_malloc_t allocate;
    json_free_t release;
    json_get_alloc_funcs(&allocate, &release);
    if (allocate == malloc && release == free)
        json_set_alloc_funcs(tracked_alloc, tracked_free);
}

/* json_loadb; NULL with *no_memory set when memory ran out. */
static json_t *load(const void *bytes, size_t n, json_error_t *problem, bool *no_memory) {
    json_t *root = NULL;
    parse.running = true;
    if (setjmp(parse.out_of_memory) == 0) {
        root = json_loadb(bytes, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, problem);
        parse.running = false;
    } else {
        parse.running = false;
        free_held();
        root = NULL;
        *no_memory = true;
    }
    mem_free(parse.events);
    parse.events = NULL;
    parse.n = parse.capacity = 0;
    return root;
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

nib_status json_read(json_t **out, const void *bytes, size_t n, const char *where, nib_error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, use_our_memory);

    bool no_memory = false;
    json_error_t problem = {0};
    *out = load(bytes, n, &problem, &no_memory);
    if (!*out && !no_memory && json_error_code(&problem) == json_error_numeric_overflow) {
        char *copy = mem_copy_text(bytes, n);
        if (!copy)
            return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
        soften_integers(copy, n);
        *out = load(copy, n, &problem, &no_memory);
        mem_free(copy);
    }
    if (*out)
        return NIB_OK;
    if (no_memory || json_error_code(&problem) == json_error_out_of_memory || problem.text[0] == '\0')
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", where);
    return nib_fail(err, NIB_BAD_FILE, "%s: not valid JSON, line %d: %s", where, problem.line, problem.text);
}
