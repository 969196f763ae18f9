/* SPDX-License-Identifier: Apache-2.0
 *
 * Line editing. See lines.h.
 */
#include "cli/lines.h"

#include <errno.h>
#include <histedit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"

#define HISTORY_LINES 1000

struct lines {
    const char *prompt;
    EditLine *edit; /* NULL: no terminal */
    History *history;
    char *line; /* getline's */
    size_t line_size;
    char history_path[1024]; /* "" when there is none */
};

/* Makes the folders of PATH that stand before its last slash. */
static bool make_folders(char *path) {
    for (char *p = path + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = 0;
        int made = mkdir(path, 0700);
        *p = '/';
        if (made != 0 && errno != EEXIST)
            return false;
    }
    return true;
}

bool lines_history_path(char *path, size_t size) {
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = -1;
    if (data && data[0] == '/')
        n = snprintf(path, size, "%s/nibble/history", data);
    else if (home && home[0] == '/')
        n = snprintf(path, size, "%s/.local/share/nibble/history", home);
    return n > 0 && (size_t)n < size && make_folders(path);
}

static char *prompt_of(EditLine *edit) {
    lines *l = NULL;
    el_get(edit, EL_CLIENTDATA, &l);
    return (char *)l->prompt; /* libedit's type; it does not write there */
}

/* Ctrl-C while a line is edited: libedit swallows an interrupted read, so it comes as a key, not as a signal.
 */
static unsigned char on_interrupt_key(EditLine *edit, int key) {
    (void)edit;
    (void)key;
    cli_interrupted = SIGINT;
    return CC_EOF;
}

static void open_editor(lines *l) {
    HistEvent event;
    l->edit = el_init("nibble", stdin, stdout, stderr);
    if (!l->edit)
        return;
    l->history = history_init();
    el_set(l->edit, EL_CLIENTDATA, l);
    el_set(l->edit, EL_PROMPT, prompt_of);
    el_set(l->edit, EL_EDITOR, "emacs");
    el_set(l->edit, EL_SIGNAL, 1); /* window size, suspend */
    el_set(l->edit, EL_SETTY, "-d", "intr=", NULL);
    el_set(l->edit, EL_ADDFN, "interrupt", "drop the line", on_interrupt_key);
    el_set(l->edit, EL_BIND, "^C", "interrupt", NULL);
    /* A Ctrl-D typed before the line editor listens comes out of the terminal's queue as a NUL. */
    el_set(l->edit, EL_BIND, "^@", "em-delete-or-list", NULL);
    if (!l->history)
        return;
    history(l->history, &event, H_SETSIZE, HISTORY_LINES);
    history(l->history, &event, H_SETUNIQUE, 1);
    el_set(l->edit, EL_HIST, history, l->history);
    if (lines_history_path(l->history_path, sizeof l->history_path))
        history(l->history, &event, H_LOAD, l->history_path);
    else
        l->history_path[0] = 0;
}

lines *lines_open(const char *prompt) {
    lines *l = mem_array(1, sizeof *l);
    if (!l)
        return NULL;
    l->prompt = prompt;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        open_editor(l);
    return l;
}

static lines_result end_or_interrupt(void) {
    if (!cli_interrupted)
        return LINES_END;
    cli_interrupted = 0;
    clearerr(stdin);
    return LINES_INTERRUPTED;
}

static lines_result read_plain(lines *l, const char **text) {
    ssize_t n = getline(&l->line, &l->line_size, stdin);
    if (n < 0)
        return end_or_interrupt();
    if (n > 0 && l->line[n - 1] == '\n')
        l->line[n - 1] = 0;
    *text = l->line;
    return LINES_TEXT;
}

lines_result lines_read(lines *l, const char **text) {
    if (!l->edit)
        return read_plain(l, text);
    int n = 0;
    const char *typed = el_gets(l->edit, &n);
    if (!typed || n <= 0)
        return end_or_interrupt();
    HistEvent event;
    if (l->history && n > 1)
        history(l->history, &event, H_ENTER, typed);
    free(l->line); /* getline's memory or strndup's: plain malloc both */
    l->line = strndup(typed, strcspn(typed, "\n"));
    l->line_size = 0;
    if (!l->line)
        return LINES_END;
    *text = l->line;
    return LINES_TEXT;
}

void lines_close(lines *l) {
    if (!l)
        return;
    HistEvent event;
    if (l->history) {
        if (l->history_path[0] && history(l->history, &event, H_SAVE, l->history_path) >= 0)
            chmod(l->history_path, 0600);
        history_end(l->history);
    }
    if (l->edit)
        el_end(l->edit);
    free(l->line);
    mem_free(l);
}
