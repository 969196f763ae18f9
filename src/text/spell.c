/* SPDX-License-Identifier: Apache-2.0
 *
 * Spellings of characters.
 */
#include "text/spell.h"

#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"

static bool has(const grammar_span *spans, size_t n, uint32_t code) {
    for (size_t i = 0; i < n && spans[i].first <= code; i++)
        if (code <= spans[i].last)
            return true;
    return false;
}

/* The letter after the backslash, 0: none. */
static char short_escape(uint32_t code) {
    switch (code) {
    case '"':
    case '\\':
        return (char)code;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return 0;
    }
}

static grammar_node hex_digit(grammar_builder *b, unsigned value) {
    const unsigned char lower = (unsigned char)"0123456789abcdef"[value];
    const unsigned char upper = (unsigned char)"0123456789ABCDEF"[value];
    return GRAMMAR_ALT(b, grammar_byte(b, lower, lower), grammar_byte(b, upper, upper));
}

/* A control character, a quote or a backslash. */
static grammar_node escaped(grammar_builder *b, uint32_t code) {
    const char letter = short_escape(code);
    if (letter)
        return grammar_text(b, (strview){(const char[]){'\\', letter}, 2});
    return GRAMMAR_SEQ(b, grammar_word(b, code < 16 ? "\\u000" : "\\u001"), hex_digit(b, code & 15));
}

grammar_node spell_char(grammar_builder *b, const grammar_span *spans, size_t n, spelling how) {
    if (how == SPELL_PLAIN)
        return grammar_char(b, spans, n);
    static const grammar_span plain[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, SPELL_LAST_CODE}};
    grammar_span *cut = mem_array(n + 3, sizeof *cut);
    if (!cut)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a grammar");
    size_t n_cut = 0;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < n; i++) {
            const uint32_t first = spans[i].first > plain[p].first ? spans[i].first : plain[p].first;
            const uint32_t last = spans[i].last < plain[p].last ? spans[i].last : plain[p].last;
            if (first <= last)
                cut[n_cut++] = (grammar_span){first, last};
        }
    grammar_node parts[36];
    size_t n_parts = 0;
    parts[n_parts++] = grammar_char(b, cut, n_cut);
    mem_free(cut);
    for (uint32_t code = 0; code < 0x20; code++)
        if (has(spans, n, code))
            parts[n_parts++] = escaped(b, code);
    if (has(spans, n, '"'))
        parts[n_parts++] = escaped(b, '"');
    if (has(spans, n, '\\'))
        parts[n_parts++] = escaped(b, '\\');
    const grammar_node any = grammar_alt(b, parts, n_parts);
    return how == SPELL_JSON_COUNTED ? GRAMMAR_SEQ(b, any, grammar_tick(b)) : any;
}

grammar_node spell_text(grammar_builder *b, strview text, spelling how) {
    grammar_node all = GRAMMAR_EMPTY;
    size_t from = 0;
    for (size_t i = 0; how == SPELL_JSON && i < text.n; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        all = GRAMMAR_SEQ(b, all, grammar_text(b, (strview){text.p + from, i - from}), escaped(b, c));
        from = i + 1;
    }
    return GRAMMAR_SEQ(b, all, grammar_text(b, (strview){text.p + from, text.n - from}));
}

grammar_node spell_free_char(grammar_builder *b) {
    static const grammar_span plain[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, SPELL_LAST_CODE}};
    const grammar_node hex =
        GRAMMAR_ALT(b, grammar_byte(b, '0', '9'), grammar_byte(b, 'a', 'f'), grammar_byte(b, 'A', 'F'));
    const grammar_node two = GRAMMAR_SEQ(b, hex, hex);
    const grammar_node d = GRAMMAR_ALT(b, grammar_byte(b, 'd', 'd'), grammar_byte(b, 'D', 'D'));
    const grammar_node not_d =
        GRAMMAR_ALT(b, grammar_byte(b, '0', '9'), grammar_byte(b, 'a', 'c'), grammar_byte(b, 'A', 'C'),
                    grammar_byte(b, 'e', 'f'), grammar_byte(b, 'E', 'F'));
    const grammar_node high =
        GRAMMAR_ALT(b, grammar_byte(b, '8', '9'), grammar_byte(b, 'a', 'b'), grammar_byte(b, 'A', 'B'));
    const grammar_node low = GRAMMAR_ALT(b, grammar_byte(b, 'c', 'f'), grammar_byte(b, 'C', 'F'));
    const grammar_node letters =
        GRAMMAR_ALT(b, grammar_byte(b, '"', '"'), grammar_byte(b, '\\', '\\'), grammar_byte(b, '/', '/'),
                    grammar_byte(b, 'b', 'b'), grammar_byte(b, 'f', 'f'), grammar_byte(b, 'n', 'n'),
                    grammar_byte(b, 'r', 'r'), grammar_byte(b, 't', 't'));
    const grammar_node one =
        GRAMMAR_ALT(b, GRAMMAR_SEQ(b, not_d, hex, two), GRAMMAR_SEQ(b, d, grammar_byte(b, '0', '7'), two));
    const grammar_node pair = GRAMMAR_SEQ(b, d, high, two, grammar_word(b, "\\u"), d, low, two);
    return GRAMMAR_ALT(
        b, grammar_char(b, plain, 3),
        GRAMMAR_SEQ(
            b, grammar_byte(b, '\\', '\\'),
            GRAMMAR_ALT(b, letters, GRAMMAR_SEQ(b, grammar_byte(b, 'u', 'u'), GRAMMAR_ALT(b, one, pair)))));
}
