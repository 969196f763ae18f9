/* SPDX-License-Identifier: Apache-2.0
 *
 * The two-stage table behind char_class_of: 256 characters a page, pages of one class shared. Built from
 * unicode_ranges.c when a tokenizer opens (a fraction of a millisecond).
 */
#include "text/char_class.h"

#include "base/mem.h"

#define N_PAGES (0x110000 >> 8)

static char_class class_for(const unicode_range *r, class_source source) {
    if (r->is_new && source == CLASSES_LLAMA_CPP)
        return CHAR_OTHER;
    return r->category[0] == 'L'   ? CHAR_LETTER
           : r->category[0] == 'N' ? CHAR_NUMBER
           : r->category[0] == 'Z' ? CHAR_SPACE
                                   : CHAR_OTHER;
}

static void mark_ends(bool mixed[N_PAGES], uint32_t first, uint32_t last) {
    if (first & 255)
        mixed[first >> 8] = true;
    if ((last & 255) != 255)
        mixed[last >> 8] = true;
}

static void fill(char_classes *c, const bool mixed[N_PAGES], uint32_t first, uint32_t last, char_class kind) {
    for (uint32_t code = first; code <= last;) {
        const uint32_t page = code >> 8, page_end = (page << 8) + 255;
        const uint32_t end = last < page_end ? last : page_end;
        if (mixed[page])
            memset(&c->cells[c->page[page]][code & 255], (int)kind, end - code + 1);
        else
            c->page[page] = (uint16_t)kind;
        code = end + 1;
    }
}

/* Pages 0 to 3 are uniform, one per class; every page that a range covers only in part gets cells of its
 * own. */
nib_status char_classes_open(char_classes *c, class_source source, nib_error *err) {
    memset(c, 0, sizeof *c);
    size_t n_cells = 4, n_digits = source == CLASSES_DIGITS ? n_unicode_digits : 0;
    bool mixed[N_PAGES] = {false};
    for (size_t i = 0; i < n_unicode_ranges; i++)
        mark_ends(mixed, unicode_ranges[i].first, unicode_ranges[i].last);
    for (size_t i = 0; i < n_digits; i++)
        mark_ends(mixed, unicode_digits[i].first, unicode_digits[i].last);
    for (size_t p = 0; p < N_PAGES; p++)
        if (mixed[p])
            c->page[p] = (uint16_t)n_cells++;
    c->cells = mem_array(n_cells, sizeof *c->cells);
    if (!c->cells)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the table of character classes");
    for (size_t k = 0; k < 4; k++)
        memset(c->cells[k], (int)k, 256);
    for (size_t i = 0; i < n_unicode_ranges; i++)
        fill(c, mixed, unicode_ranges[i].first, unicode_ranges[i].last,
             class_for(&unicode_ranges[i], source));
    for (size_t i = 0; i < n_digits; i++)
        fill(c, mixed, unicode_digits[i].first, unicode_digits[i].last, CHAR_NUMBER);
    fill(c, mixed, '\t', '\r', CHAR_SPACE); /* \s has these controls */
    fill(c, mixed, 0x85, 0x85, CHAR_SPACE);
    return NIB_OK;
}

void char_classes_close(char_classes *c) {
    mem_free(c->cells);
    memset(c, 0, sizeof *c);
}

/* ---- by name ---- */

static bool has_name(const unicode_range *r, strview name) {
    return name.n <= 2 && memcmp(r->category, name.p, name.n) == 0;
}

bool char_class_known(strview name) {
    for (size_t i = 0; name.n > 0 && i < n_unicode_ranges; i++)
        if (has_name(&unicode_ranges[i], name))
            return name.p[0] != 'C'; /* what is not assigned is of C too */
    return strview_is(name, "Han");
}

nib_status char_class_spans(strview name, class_source source, char_class_sink *span, void *context,
                            nib_error *err) {
    if (strview_is(name, "Han")) {
        for (size_t i = 0; i < n_unicode_han; i++)
            NIB_TRY(span(context, unicode_han[i], err));
        return NIB_OK;
    }
    unicode_span run = {1, 0}; /* neighbours become one */
    for (size_t i = 0; i < n_unicode_ranges; i++) {
        const unicode_range *r = &unicode_ranges[i];
        if (!has_name(r, name) || (r->is_new && source == CLASSES_LLAMA_CPP))
            continue;
        if (run.first <= run.last && r->first == run.last + 1) {
            run.last = r->last;
            continue;
        }
        if (run.first <= run.last)
            NIB_TRY(span(context, run, err));
        run = (unicode_span){r->first, r->last};
    }
    return run.first <= run.last ? span(context, run, err) : NIB_OK;
}
