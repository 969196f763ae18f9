/* SPDX-License-Identifier: Apache-2.0
 *
 * Oniguruma behind the splitter. A match has a limit of backtracking and of stack, and all matches in a text
 * share a budget in proportion to its length: a pattern that needs more on some text is an error in words,
 * not a hang. Patterns are tried at one position after the other, because Oniguruma counts backtracking anew
 * at each position that it tries by itself. Its memory is malloc's.
 */
#include "text/split_pattern.h"

#include <oniguruma.h>
#include <pthread.h>

#include "base/mem.h"
#include "text/split_dialect.h"

#define FREE_STEPS  256 /* of backtracking at a position, not counted */
#define MORE_STEPS  4   /* times as many in the next try */
#define MATCH_LIMIT (FREE_STEPS << 14)
#define STACK_LIMIT (4 << 20) /* places to go back to */

struct split_pattern {
    regex_t *code;
};

static pthread_once_t initialized = PTHREAD_ONCE_INIT;

static void initialize(void) {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
}

void split_pattern_close(split_pattern *p) {
    if (!p)
        return;
    onig_free(p->code);
    mem_free(p);
}

static nib_status compile(split_pattern *p, const text_buffer *text, const char *where, nib_error *err) {
    OnigErrorInfo info = {0};
    const OnigUChar *pattern = (const OnigUChar *)text->bytes;
    const int code = onig_new(&p->code, pattern, pattern + text->n, ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                              ONIG_SYNTAX_ONIGURUMA, &info);
    if (code == ONIG_NORMAL)
        return NIB_OK;
    p->code = NULL;
    if (code == ONIGERR_MEMORY)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a Split pattern");
    OnigUChar words[ONIG_MAX_ERROR_MESSAGE_LEN] = "";
    const int n = onig_error_code_to_str(words, code, &info);
    return nib_fail(err, NIB_UNSUPPORTED, "%s: a Split pattern that Oniguruma cannot read: %.*s", where, n,
                    (const char *)words);
}

nib_status split_pattern_open(split_pattern **out, strview pattern, class_source source, const char *where,
                              nib_error *err) {
    *out = NULL;
    if (pattern.n > 4096)
        return nib_fail(err, NIB_BAD_FILE, "%s: a Split pattern of %zu bytes, expected at most 4096", where,
                        pattern.n);
    pthread_once(&initialized, initialize);
    split_pattern *p = mem_array(1, sizeof *p);
    if (!p)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a Split pattern");
    text_buffer text = {0};
    nib_status status = split_dialect_spell(&text, pattern, source, where, err);
    if (status == NIB_OK)
        status = compile(p, &text, where, err);
    text_buffer_free(&text);
    if (status != NIB_OK) {
        split_pattern_close(p);
        return status;
    }
    *out = p;
    return NIB_OK;
}

nib_status split_pattern_match_open(split_pattern_match *m, const split_pattern *pattern, const char *text,
                                    size_t n, uint64_t *work, nib_error *err) {
    *m = (split_pattern_match){.pattern = pattern, .text = text, .n = n, .last_end = n + 1, .work = work};
    OnigMatchParam *limits = onig_new_match_param();
    if (!limits)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to split text");
    onig_set_match_stack_limit_size_of_match_param(limits, STACK_LIMIT);
    m->limits = limits;
    return NIB_OK;
}

/* Bytes that match at m->at, or Oniguruma's error. It does not tell how many steps a match took, so it is
 * given few and, when they do not do, more of those that are left. */
static int match_here(split_pattern_match *m) {
    const OnigUChar *text = (const OnigUChar *)m->text;
    for (uint32_t steps = FREE_STEPS;;) {
        onig_set_retry_limit_in_match_of_match_param(m->limits, steps);
        const int found = onig_match_with_param(m->pattern->code, text, text + m->n, text + m->at, NULL,
                                                ONIG_OPTION_NONE, m->limits);
        steps *= MORE_STEPS;
        if (found != ONIGERR_RETRY_LIMIT_IN_MATCH_OVER || steps > MATCH_LIMIT || steps > *m->work)
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
        if (found == ONIG_MISMATCH || (found == 0 && m->at == m->last_end)) {
            skip_character(m);
            continue;
        }
        if (found < 0)
            return nib_fail(err, found == ONIGERR_MEMORY ? NIB_NO_MEMORY : NIB_BAD_FILE,
                            "the model's Split pattern takes too long on this text (Oniguruma error %d)",
                            found);
        *from = m->at;
        *to = m->at = m->last_end = m->at + (size_t)found;
        return NIB_OK;
    }
    *from = *to = m->at = m->n;
    return NIB_OK;
}

void split_pattern_match_close(split_pattern_match *m) {
    if (m->limits)
        onig_free_match_param(m->limits);
    m->limits = NULL;
}
