/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables as Markdown, JSON and CSV. See ui.h.
 */
#include <stdarg.h>
#include <string.h>

#include "base/mem.h"
#include "cli/ui.h"

const char *const ui_table_formats[] = {"md", "json", "csv", NULL};

bool ui_table_add(ui_table *t, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0)
        return false;
    if (t->n_cells == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 64;
        char **cells = mem_resize(t->cells, capacity, sizeof *cells);
        if (!cells)
            return false;
        t->cells = cells;
        t->capacity = capacity;
    }
    char *copy = mem_copy_text(text, strlen(text));
    if (!copy)
        return false;
    t->cells[t->n_cells++] = copy;
    return true;
}

void ui_table_free(ui_table *t) {
    for (size_t i = 0; i < t->n_cells; i++)
        mem_free(t->cells[i]);
    mem_free(t->cells);
    t->cells = NULL;
    t->n_cells = t->capacity = 0;
}

/* Columns on a terminal are code points, not bytes ("±" is two). */
static size_t width(const char *text) {
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static void print_padded(FILE *out, const char *text, size_t columns, bool right) {
    size_t n = width(text);
    size_t pad = columns > n ? columns - n : 0;
    fprintf(out, " %*s%s%*s |", right ? (int)pad : 0, "", text, right ? 0 : (int)pad, "");
}

static void print_md(const ui_table *t, FILE *out) {
    size_t n_rows = t->n_cells / t->n_columns;
    size_t widths[32] = {0};
    for (size_t c = 0; c < t->n_columns && c < 32; c++) {
        widths[c] = width(t->columns[c].title);
        for (size_t r = 0; r < n_rows; r++) {
            size_t w = width(t->cells[r * t->n_columns + c]);
            if (w > widths[c])
                widths[c] = w;
        }
        if (widths[c] < 3)
            widths[c] = 3;
    }
    fputc('|', out);
    for (size_t c = 0; c < t->n_columns; c++)
        print_padded(out, t->columns[c].title, widths[c], t->columns[c].number);
    fputs("\n|", out);
    for (size_t c = 0; c < t->n_columns; c++) {
        fputc(' ', out);
        for (size_t i = 0; i + 1 < widths[c]; i++)
            fputc('-', out);
        fputs(t->columns[c].number ? ": |" : "- |", out);
    }
    fputc('\n', out);
    for (size_t r = 0; r < n_rows; r++) {
        fputc('|', out);
        for (size_t c = 0; c < t->n_columns; c++)
            print_padded(out, t->cells[r * t->n_columns + c], widths[c], t->columns[c].number);
        fputc('\n', out);
    }
}

void ui_json_string(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if (*p < 0x20)
            fprintf(out, "\\u%04x", *p);
        else
            fputc(*p, out);
    }
    fputc('"', out);
}

static void print_json(const ui_table *t, FILE *out) {
    size_t n_rows = t->n_cells / t->n_columns;
    fputs("[", out);
    for (size_t r = 0; r < n_rows; r++) {
        fputs(r ? ",\n  {" : "\n  {", out);
        for (size_t c = 0; c < t->n_columns; c++) {
            const char *cell = t->cells[r * t->n_columns + c];
            fprintf(out, "%s\"%s\": ", c ? ", " : "", t->columns[c].key);
            if (!t->columns[c].number)
                ui_json_string(out, cell);
            else
                fputs(*cell ? cell : "null", out);
        }
        fputc('}', out);
    }
    fputs("\n]\n", out);
}

static void print_csv(const ui_table *t, FILE *out) {
    size_t n_rows = t->n_cells / t->n_columns;
    for (size_t c = 0; c < t->n_columns; c++)
        fprintf(out, "%s%s", c ? "," : "", t->columns[c].key);
    fputc('\n', out);
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t c = 0; c < t->n_columns; c++) {
            const char *cell = t->cells[r * t->n_columns + c];
            if (c)
                fputc(',', out);
            if (!strpbrk(cell, ",\"\n")) {
                fputs(cell, out);
                continue;
            }
            fputc('"', out);
            for (const char *p = cell; *p; p++) {
                if (*p == '"')
                    fputc('"', out);
                fputc(*p, out);
            }
            fputc('"', out);
        }
        fputc('\n', out);
    }
}

void ui_table_print(const ui_table *t, ui_table_format format, FILE *out) {
    switch (format) {
    case UI_MD:
        print_md(t, out);
        break;
    case UI_JSON:
        print_json(t, out);
        break;
    case UI_CSV:
        print_csv(t, out);
        break;
    }
}
