/* SPDX-License-Identifier: Apache-2.0
 *
 * The two-stage table behind char_class_of: 256 characters a page, pages of one class shared. Built from
 * unicode_ranges.c when a tokenizer opens (a fraction of a millisecond).
 */
#include "text/char_class.h"

#include "base/mem.h"

#define N_PAGES (0x110000 >> 8)

static char_class class_for(range_class kind, class_source source) {
    switch (kind) {
    case RANGE_LETTER:
        return CHAR_LETTER;
    case RANGE_NUMBER:
        return CHAR_NUMBER;
    case RANGE_SPACE:
        return CHAR_SPACE;
    case RANGE_NEW_LETTER:
        return source == CLASSES_LLAMA_CPP ? CHAR_OTHER : CHAR_LETTER;
    case RANGE_NEW_NUMBER:
        return source == CLASSES_LLAMA_CPP ? CHAR_OTHER : CHAR_NUMBER;
    case RANGE_NEW_DIGIT:
        return source == CLASSES_DIGITS ? CHAR_NUMBER : CHAR_OTHER;
    }
    return CHAR_OTHER;
}

/* Pages 0 to 3 are uniform, one per class; every page that a range covers only in part gets cells of its
 * own. */
nib_status char_classes_open(char_classes *c, class_source source, nib_error *err) {
    memset(c, 0, sizeof *c);
    size_t n_cells = 4;
    bool mixed[N_PAGES] = {false};
    for (size_t i = 0; i < n_unicode_ranges; i++) {
        const unicode_range *r = &unicode_ranges[i];
        if (r->first & 255)
            mixed[r->first >> 8] = true;
        if ((r->last & 255) != 255)
            mixed[r->last >> 8] = true;
    }
    for (size_t p = 0; p < N_PAGES; p++)
        if (mixed[p])
            c->page[p] = (uint16_t)n_cells++;
    c->cells = mem_array(n_cells, sizeof *c->cells);
    if (!c->cells)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the table of character classes");
    for (size_t k = 0; k < 4; k++)
        memset(c->cells[k], (int)k, 256);
    for (size_t i = 0; i < n_unicode_ranges; i++) {
        const unicode_range *r = &unicode_ranges[i];
        const char_class kind = class_for(r->kind, source);
        for (uint32_t code = r->first; code <= r->last;) {
            const uint32_t page = code >> 8, end = (page << 8) + 255;
            const uint32_t last = r->last < end ? r->last : end;
            if (mixed[page])
                memset(&c->cells[c->page[page]][code & 255], (int)kind, last - code + 1);
            else
                c->page[page] = (uint16_t)kind;
            code = last + 1;
        }
    }
    return NIB_OK;
}

void char_classes_close(char_classes *c) {
    mem_free(c->cells);
    memset(c, 0, sizeof *c);
}
