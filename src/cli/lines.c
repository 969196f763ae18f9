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
#include <wchar.h>

#include "base/mem.h"
#include "cli/cli.h"

#define HISTORY_LINES 1000

struct lines {
    const char *prompt;
    bool going_on;  /* a text of several lines: its prompt is another */
    EditLine *edit; /* NULL: no terminal */
    History *history;
    char *line; /* getline's */
    size_t line_size;
    char *text; /* of several lines */
    size_t text_size;
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
    return (char *)(l->going_on ? "... " : l->prompt); /* libedit's type; it does not write there */
}

/* Ctrl-C while a line is edited: libedit swallows an interrupted read, so it comes as a key, not as a signal.
 */
static unsigned char on_interrupt_key(EditLine *edit, int key) {
    (void)edit;
    (void)key;
    cli_interrupted = SIGINT;
    return CC_EOF;
}

/* Terminals send what is pasted between two sequences once they are asked to (mode 2004). The first is bound
 * to this: everything up to the second goes into the line, newlines too. */
#define PASTE_ON    "\033[?2004h"
#define PASTE_OFF   "\033[?2004l"
#define PASTE_BEGIN "\033[200~"
#define PASTE_END   L"\033[201~"

static unsigned char on_paste(EditLine *edit, int key) {
    static const wchar_t end[] = PASTE_END;
    enum { N_END = sizeof end / sizeof *end - 1 };
    size_t n = 0, capacity = 1024;
    wchar_t *text = malloc(capacity * sizeof *text), c;
    (void)key;
    while (text && el_wgetc(edit, &c) == 1 && c != 0) {
        if (n + 1 == capacity) {
            wchar_t *grown = realloc(text, 2 * capacity * sizeof *text);
            if (!grown)
                break;
            text = grown;
            capacity *= 2;
        }
        if (c == L'\n' && n > 0 && text[n - 1] == L'\r')
            continue;
        text[n++] = c;
        if (n >= N_END && wmemcmp(text + n - N_END, end, N_END) == 0) {
            n -= N_END;
            break;
        }
    }
    while (n > 0 && (text[n - 1] == L'\r' || text[n - 1] == L'\n'))
        n--; /* Enter is the user's */
    for (size_t i = 0; i < n; i++)
        text[i] = text[i] == L'\r' ? L'\n' : text[i];
    if (n > 0) {
        text[n] = 0;
        el_winsertstr(edit, text);
    }
    free(text);
    return CC_REFRESH;
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
    el_set(l->edit, EL_ADDFN, "paste", "what is pasted is one text", on_paste);
    el_set(l->edit, EL_BIND, PASTE_BEGIN, "paste", NULL);
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
    fputs(PASTE_ON, stdout);
    fflush(stdout);
    const char *typed = el_gets(l->edit, &n);
    fputs(PASTE_OFF, stdout);
    fflush(stdout);
    if (!typed || n <= 0)
        return end_or_interrupt();
    HistEvent event;
    if (l->history && n > 1)
        history(l->history, &event, H_ENTER, typed);
    free(l->line); /* getline's memory or strndup's: plain malloc both */
    l->line = strndup(typed, (size_t)n - (typed[n - 1] == '\n'));
    l->line_size = 0;
    if (!l->line)
        return LINES_END;
    *text = l->line;
    return LINES_TEXT;
}

/* Appends LINE and a newline to the text at hand. */
static bool keep_line(lines *l, size_t *n, const char *line, size_t n_line) {
    if (*n + n_line + 2 > l->text_size) {
        const size_t size = 2 * (*n + n_line + 2);
        char *grown = mem_resize(l->text, size, 1);
        if (!grown)
            return false;
        l->text = grown;
        l->text_size = size;
    }
    memcpy(l->text + *n, line, n_line);
    *n += n_line;
    l->text[(*n)++] = '\n';
    l->text[*n] = 0;
    return true;
}

static bool ends_with(const char *line, size_t n, const char *end) {
    const size_t k = strlen(end);
    return n >= k && memcmp(line + n - k, end, k) == 0;
}

lines_result lines_read_text(lines *l, const char **text) {
    static const char quotes[] = "\"\"\"", backslash[] = "\\";
    size_t n = 0;
    bool quoted = false;
    for (l->going_on = false;; l->going_on = true) {
        const char *line;
        const lines_result got = lines_read(l, &line);
        const bool first = !l->going_on;
        if (got != LINES_TEXT) {
            l->going_on = false;
            return got;
        }
        size_t n_line = strlen(line);
        if (first && strncmp(line, quotes, 3) == 0) {
            quoted = true;
            line += 3;
            n_line -= 3;
        }
        const bool open = quoted ? !ends_with(line, n_line, quotes) : ends_with(line, n_line, backslash);
        if (first && !open && !quoted) {
            *text = line;
            return LINES_TEXT;
        }
        n_line -= quoted ? open ? 0 : 3 : open;
        const bool only_quotes = quoted && n_line == 0 && (first || !open);
        if (!only_quotes && !keep_line(l, &n, line, n_line))
            return LINES_END;
        if (open)
            continue;
        l->going_on = false;
        if (n > 0)
            l->text[n - 1] = 0; /* the last newline */
        *text = n > 0 ? l->text : "";
        return LINES_TEXT;
    }
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
    mem_free(l->text);
    mem_free(l);
}
