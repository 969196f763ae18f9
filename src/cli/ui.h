/* SPDX-License-Identifier: Apache-2.0
 *
 * What the program draws: a progress bar, colours, tables. Bars and colours only on a terminal.
 */
#ifndef CLI_UI_H
#define CLI_UI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/progress.h"

/* A bar with the time left on standard error, drawn once the work has run for a second; where standard error
 * is no terminal, a line every half minute. Zero-initialize; hand ui_bar_progress(&bar) to the work;
 * ui_bar_clear afterwards. */
typedef struct ui_bar {
    const char *what;
    uint64_t done;         /* when it began */
    double started, drawn; /* seconds */
    bool visible;
} ui_bar;

progress ui_bar_progress(ui_bar *bar);
void ui_bar_clear(ui_bar *bar);

/* The escape sequence when STREAM is a terminal (and NO_COLOR is not set), else "". */
typedef enum ui_style { UI_RESET, UI_BOLD, UI_DIM, UI_RED, UI_GREEN, UI_CYAN } ui_style;
const char *ui_color(FILE *stream, ui_style style);

/* "12.3 MiB", "1.20 GiB" into TEXT. */
const char *ui_bytes(char *text, size_t size, unsigned long long bytes);

/* A table written row by row after all cells are known: Markdown (aligned), JSON (an array of objects keyed
 * by the column names; numbers bare) or CSV. */
typedef enum ui_table_format { UI_MD = 0, UI_JSON, UI_CSV } ui_table_format;
extern const char *const ui_table_formats[]; /* "md", "json", "csv", NULL */

typedef struct ui_column {
    const char *title; /* Markdown */
    const char *key;   /* JSON and CSV */
    bool number;       /* right-aligned; bare in JSON */
} ui_column;

typedef struct ui_table {
    const ui_column *columns;
    size_t n_columns;
    char **cells; /* [n_rows * n_columns] */
    size_t n_cells, capacity;
} ui_table; /* zero-initialize but for the columns */

/* Adds the next cell, row by row; false when memory ran out. An empty number is null in JSON. */
bool ui_table_add(ui_table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void ui_table_print(const ui_table *t, ui_table_format format, FILE *out);
void ui_table_free(ui_table *t);

/* Text that a model made or holds. On a terminal what is no character (control bytes but newline and tab, C1
 * controls, invalid UTF-8) is shown as \xNN, byte by byte, so that it cannot steer the terminal; elsewhere
 * the bytes go out as they are. ui_put_char writes the first character or byte of N >= 1 and returns its
 * bytes. */
size_t ui_put_char(FILE *out, bool terminal, const char *text, size_t n);
void ui_put_text(FILE *out, bool terminal, const char *text, size_t n);
bool ui_is_terminal(FILE *stream);

/* TEXT as a JSON string, with its quotes. */
void ui_json_string(FILE *out, const char *text);

#endif
