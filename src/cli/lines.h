/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines that a person types: libedit with a history on a terminal, plain lines otherwise.
 */
#ifndef CLI_LINES_H
#define CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct lines lines;

/* PROMPT is shown on a terminal. The history lies in $XDG_DATA_HOME/nibble/history or
 * ~/.local/share/nibble/history; where that cannot be written, it lasts as long as the program. */
lines *lines_open(const char *prompt); /* NULL: out of memory */

typedef enum lines_result { LINES_TEXT, LINES_INTERRUPTED, LINES_END } lines_result;

/* The next line without its newline; what is pasted on a terminal is one line, newlines and all. Lives until
 * the next call. Ctrl-C gives LINES_INTERRUPTED. */
lines_result lines_read(lines *l, const char **text);
/* The next text: a line; or, where it begins with three quotes, all up to the three that end a line; or,
 * where a line ends in a backslash, that line and the next. Lives as long. */
lines_result lines_read_text(lines *l, const char **text);
void lines_close(lines *l);

/* The history's path into PATH, its folders made on the way; false when there is none. */
bool lines_history_path(char *path, size_t size);

#endif
