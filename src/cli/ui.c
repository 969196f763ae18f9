/* SPDX-License-Identifier: Apache-2.0
 *
 * Bars, colours and sizes. See ui.h.
 */
#include "cli/ui.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

#define BAR_AFTER_SECONDS 1.0
#define BAR_EVERY_SECONDS 0.1
#define BAR_WIDTH         24
#define LINE_SECONDS      30.0 /* between two lines where there is no terminal */

/* "3 min left", or nothing at the beginning; by what was done since the bar's first report. */
static void time_left(char left[32], const ui_bar *bar, uint64_t done, uint64_t total, double now) {
    const double part = done > bar->done ? (double)(done - bar->done) / (double)(total - bar->done) : 0;
    const double remaining = part > 0.01 ? (now - bar->started) * (1 - part) / part : 0;
    left[0] = 0;
    if (remaining >= 90)
        snprintf(left, 32, "%.0f min left", remaining / 60);
    else if (part > 0.01)
        snprintf(left, 32, "%.0f s left", remaining);
}

static void draw(ui_bar *bar, const char *what, uint64_t done, uint64_t total, double now) {
    const double part = done >= total ? 1 : (double)done / (double)total;
    int full = (int)(part * BAR_WIDTH);
    char marks[BAR_WIDTH + 1];
    for (int i = 0; i < BAR_WIDTH; i++)
        marks[i] = i < full ? '#' : '.';
    marks[BAR_WIDTH] = 0;
    char left[32];
    time_left(left, bar, done, total, now);
    struct winsize window;
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    char line[256];
    int n = snprintf(line, sizeof line, "%-24.40s [%s] %3.0f%%  %s", what, marks, part * 100, left);
    if (n > columns - 1)
        n = columns - 1;
    fprintf(stderr, "\r\033[K%.*s", n, line);
    fflush(stderr);
    bar->visible = true;
}

/* The moment; a new stage of the work begins at it. */
static double enter(ui_bar *bar, const char *what, uint64_t done) {
    const double now = clock_seconds();
    if (bar->what != what) {
        bar->what = what;
        bar->done = done;
        bar->started = bar->drawn = now;
    }
    return now;
}

static void report(void *context, const char *what, uint64_t done, uint64_t total) {
    ui_bar *bar = context;
    const double now = enter(bar, what, done);
    bool last = done >= total;
    if (now - bar->started < BAR_AFTER_SECONDS || total == 0)
        return;
    if (!last && now - bar->drawn < BAR_EVERY_SECONDS)
        return;
    bar->drawn = now;
    draw(bar, what, done, total, now);
}

/* For a log. */
static void report_line(void *context, const char *what, uint64_t done, uint64_t total) {
    ui_bar *bar = context;
    const double now = enter(bar, what, done);
    char left[32];
    if (done >= total || now - bar->drawn < LINE_SECONDS)
        return;
    bar->drawn = now;
    time_left(left, bar, done, total, now);
    fprintf(stderr, "%s: %.0f%%%s%s\n", what, 100 * (double)done / (double)total, *left ? ", " : "", left);
}

progress ui_bar_progress(ui_bar *bar) {
    progress p = {.report = isatty(STDERR_FILENO) ? report : report_line, .context = bar};
    return p;
}

void ui_bar_clear(ui_bar *bar) {
    if (bar->visible)
        fputs("\r\033[K", stderr);
    bar->visible = false;
    bar->what = NULL;
}

const char *ui_color(FILE *stream, ui_style style) {
    static const char *const codes[] = {"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[36m"};
    const char *no_color = getenv("NO_COLOR");
    if ((no_color && *no_color) || !isatty(fileno(stream)))
        return "";
    return codes[style];
}

bool ui_is_terminal(FILE *stream) {
    return isatty(fileno(stream));
}

size_t ui_put_char(FILE *out, bool terminal, const char *text, size_t n) {
    uint32_t code = 0;
    unsigned bad = 0;
    unsigned bytes = utf8_decode((const unsigned char *)text, n, &code, &bad);
    bool control = (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7F && code < 0xA0);
    if (!terminal || (bytes > 0 && !control)) {
        bytes = bytes ? bytes : 1;
        fwrite(text, 1, bytes, out);
        return bytes;
    }
    bytes = bytes ? bytes : 1;
    for (unsigned i = 0; i < bytes; i++)
        fprintf(out, "\\x%02x", (unsigned char)text[i]);
    return bytes;
}

void ui_put_text(FILE *out, bool terminal, const char *text, size_t n) {
    if (!terminal) {
        fwrite(text, 1, n, out);
        return;
    }
    for (size_t i = 0; i < n;)
        i += ui_put_char(out, true, text + i, n - i);
}

const char *ui_bytes(char *text, size_t size, unsigned long long bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 4) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, unit == 0 ? "%.0f %s" : value < 10 ? "%.2f %s" : "%.1f %s", value, units[unit]);
    return text;
}
