/* SPDX-License-Identifier: Apache-2.0
 *
 * PCRE2 behind the splitter. Its memory comes from base/mem.h. A match has a limit of backtracking and a JIT
 * stack of bounded size, and all matches in a text share a budget in proportion to its length: a pattern that
 * needs more on some text is an error in words, not a hang. Patterns are anchored and tried at one position
 * after the other, because PCRE2 counts backtracking anew at each position that it tries by itself.
 */
#include "text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"

#define FREE_STEPS      256 /* of backtracking at a position, not counted */
#define MORE_STEPS      4   /* times as many in the next try */
#define MATCH_LIMIT     (FREE_STEPS << 14)
#define JIT_STACK_START 32768
#define JIT_STACK_MAX   (1 << 20)

struct split_pattern {
    pcre2_general_context *memory;
    pcre2_code *code;
    bool jit;
};

static void *pattern_alloc(size_t bytes, void *unused) {
    (void)unused;
    return mem_alloc(bytes);
}

static void pattern_free(void *p, void *unused) {
    (void)unused;
    mem_free(p);
}

void split_pattern_close(split_pattern *p) {
    if (!p)
        return;
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->memory);
    mem_free(p);
}

nib_status split_pattern_open(split_pattern **out, strview pattern, const char *where, nib_error *err) {
    if (pattern.n > 4096)
        return nib_fail(err, NIB_BAD_FILE, "%s: a Split pattern of %zu bytes, expected at most 4096", where,
                        pattern.n);
    split_pattern *p = mem_array(1, sizeof *p);
    if (p)
        p->memory = pcre2_general_context_create(pattern_alloc, pattern_free, NULL);
    pcre2_compile_context *compile = p && p->memory ? pcre2_compile_context_create(p->memory) : NULL;
    if (!compile) {
        split_pattern_close(p);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a Split pattern");
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    p->code =
        pcre2_compile((PCRE2_SPTR)pattern.p, pattern.n,
                      PCRE2_ANCHORED | PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK,
                      &code, &at, compile);
    pcre2_compile_context_free(compile);
    if (!p->code) {
        split_pattern_close(p);
        if (code == PCRE2_ERROR_HEAP_FAILED)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for a Split pattern");
        unsigned char words[128] = "";
        pcre2_get_error_message(code, words, sizeof words);
        return nib_fail(err, NIB_UNSUPPORTED, "%s: a Split pattern that PCRE2 cannot compile: %s at byte %zu",
                        where, (const char *)words, (size_t)at);
    }
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0; /* without it the interpreter runs */
    *out = p;
    return NIB_OK;
}

nib_status split_pattern_match_open(split_pattern_match *m, const split_pattern *pattern, const char *text,
                                    size_t n, uint64_t *work, nib_error *err) {
    *m = (split_pattern_match){.pattern = pattern, .text = text, .n = n, .work = work};
    m->data = pcre2_match_data_create(1, pattern->memory);
    m->context = pcre2_match_context_create(pattern->memory);
    if (pattern->jit)
        m->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, pattern->memory);
    if (!m->data || !m->context || (pattern->jit && !m->stack)) {
        split_pattern_match_close(m);
        return nib_fail(err, NIB_NO_MEMORY, "no memory to split text");
    }
    if (m->stack)
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return NIB_OK;
}

/* PCRE2's answer at m->at. It does not tell how many steps a match took, so it is given few and, when they do
 * not do, more of those that are left. */
static int match_here(split_pattern_match *m) {
    for (uint32_t steps = FREE_STEPS;;) {
        pcre2_set_match_limit(m->context, steps);
        const int found = pcre2_match(m->pattern->code, (PCRE2_SPTR)m->text, m->n, m->at,
                                      PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, m->data, m->context);
        steps *= MORE_STEPS;
        if (found != PCRE2_ERROR_MATCHLIMIT || steps > MATCH_LIMIT || steps > *m->work)
            return found;
        *m->work -= steps;
    }
}

static void skip_character(split_pattern_match *m) {
    m->at++;
    while (m->at < m->n && ((unsigned char)m->text[m->at] & 0xC0) == 0x80)
        m->at++;
}

nib_status split_pattern_match_next(split_pattern_match *m, size_t *from, size_t *to, nib_error *err) {
    while (m->at < m->n) {
        const int found = match_here(m);
        if (found == PCRE2_ERROR_NOMATCH) {
            skip_character(m);
            continue;
        }
        if (found < 0)
            return nib_fail(err, found == PCRE2_ERROR_NOMEMORY ? NIB_NO_MEMORY : NIB_BAD_FILE,
                            "the model's Split pattern takes too long on this text (PCRE2 error %d)", found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
        if (span[1] <= span[0] || span[0] < m->at) { /* \K may turn a match around */
            skip_character(m);
            continue;
        }
        *from = span[0];
        *to = m->at = span[1];
        return NIB_OK;
    }
    *from = *to = m->at = m->n;
    return NIB_OK;
}

void split_pattern_match_close(split_pattern_match *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    m->data = m->context = m->stack = NULL;
}
