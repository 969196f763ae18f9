/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors, numbers and signals of the program. See cli.h.
 */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/outtemp.h"
#include "cli/suggest.h"

volatile sig_atomic_t cli_interrupted;
static volatile sig_atomic_t interrupt_patient;

enum { KEY_USAGE = 0x2fff };

/* argp's own help options, but with -h. */
static const struct argp_option help_options[] = {
    {"help", 'h', NULL, 0, "Print this help", -1},
    {"usage", KEY_USAGE, NULL, 0, "Print a short usage message", -1},
    {NULL, '?', NULL, OPTION_HIDDEN, NULL, -1},
    {0}};

static error_t parse_help(int key, char *arg, struct argp_state *state) {
    (void)arg;
    if (key != 'h' && key != '?' && key != KEY_USAGE)
        return ARGP_ERR_UNKNOWN;
    argp_state_help(state, stdout,
                    key == KEY_USAGE ? ARGP_HELP_USAGE | ARGP_HELP_EXIT_OK : ARGP_HELP_STD_HELP);
    return 0;
}

static const struct argp help_argp = {.options = help_options, .parser = parse_help};

static void refuse_unknown_flag(const struct argp *argp, int argc, char **argv) {
    int n;
    const char *near, *flag = suggest_flag(argp, argc, argv, &n, &near);
    if (!flag)
        return;
    fprintf(stderr, "%s: there is no flag %.*s", argv[0], n, flag);
    if (near)
        fprintf(stderr, "; did you mean --%s?", near);
    fprintf(stderr, "\nTry `%s --help' for more information.\n", argv[0]);
    exit(CLI_WRONG_USAGE);
}

void cli_parse(const struct argp *argp, int argc, char **argv, void *input) {
    struct argp_child children[4] = {{0}};
    size_t n = 0;
    for (const struct argp_child *c = argp->children; c && c->argp; c++) {
        assert(n + 2 < sizeof children / sizeof *children);
        children[n++] = *c;
    }
    children[n] = (struct argp_child){&help_argp, 0, NULL, 0};
    struct argp all = *argp;
    all.children = children;
    argp_err_exit_status = CLI_WRONG_USAGE;
    refuse_unknown_flag(&all, argc, argv);
    setenv("ARGP_HELP_FMT", "rmargin=98,no-dup-args-note", 0); /* examples stay on one line */
    error_t failed = argp_parse(&all, argc, argv, ARGP_NO_HELP, NULL, input);
    if (failed) /* argp itself ran out of memory */
        exit(cli_say(CLI_BAD_INPUT, "reading the arguments: %s", strerror(failed)));
}

static const char *const *origins; /* [n_origins] */
static int n_origins;

void cli_set_origins(const char *const *list, int argc) {
    origins = list;
    n_origins = argc;
}

const char *cli_origin(const struct argp_state *state) {
    return state->next > 0 && state->next <= n_origins ? origins[state->next - 1] : "";
}

void cli_one_argument(const struct argp_state *state, const char *what, const char *arg, const char **into) {
    if (*into)
        argp_error(state, "one %s is expected; '%s' is one argument too many", what, arg);
    *into = arg;
}

int cli_say(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("nibble: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return exit_code;
}

int cli_fail(nib_status status, const nib_error *err) {
    if (status == NIB_OK)
        return CLI_OK;
    if (status == NIB_CANCELLED)
        return cli_say(CLI_INTERRUPTED + cli_interrupted, "interrupted");
    /* The library names its field; the user typed a flag. */
    static const char field[] = "max_model_len", flag[] = "--max-model-len";
    const char *at = status == NIB_BAD_ARGUMENT || status == NIB_NO_MEMORY ? strstr(err->text, field) : NULL;
    if (at)
        return cli_say(CLI_BAD_INPUT, "%.*s%s%s", (int)(at - err->text), err->text, flag, at + strlen(field));
    return cli_say(CLI_BAD_INPUT, "%s", err->text);
}

int cli_finish_output(int code) {
    bool failed = ferror(stdout) != 0;
    errno = 0;
    if (fflush(stdout) != 0 || failed) {
        const char *why = errno ? strerror(errno) : "write error";
        return code == CLI_OK ? cli_say(CLI_BAD_INPUT, "standard output: %s", why) : code;
    }
    return code;
}

bool cli_integer(const char *text, long long min, long long max, long long *out) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        return false;
    *out = value;
    return true;
}

bool cli_real(const char *text, double min, double max, double *out) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < min || value > max)
        return false;
    *out = value;
    return true;
}

long long cli_integer_flag(const struct argp_state *state, const char *flag, const char *text, long long min,
                           long long max) {
    long long value = min;
    if (!cli_integer(text, min, max, &value))
        argp_error(state, "%s%s takes a whole number from %lld to %lld, not '%s'", cli_origin(state), flag,
                   min, max, text);
    return value;
}

const char *cli_optional_number(struct argp_state *state, const char *arg) {
    const char *next = state->next < state->argc ? state->argv[state->next] : "";
    if (arg || !*next || next[strspn(next, "0123456789")])
        return arg;
    state->next++;
    return next;
}

int cli_context_flag(const struct argp_state *state, const char *text) {
    return strcmp(text, "0") == 0 ? INT32_MAX
                                  : (int)cli_integer_flag(state, "-c (but for 0)", text, 16, 1 << 20);
}

double cli_real_flag(const struct argp_state *state, const char *flag, const char *text, double min,
                     double max) {
    double value = min;
    if (!cli_real(text, min, max, &value))
        argp_error(state, "%s%s takes a number from %g to %g, not '%s'", cli_origin(state), flag, min, max,
                   text);
    return value;
}

int cli_choice_flag(const struct argp_state *state, const char *flag, const char *text,
                    const char *const *names) {
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; names[i]; i++) {
        if (strcasecmp(text, names[i]) == 0)
            return i;
        int n = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
        if (n > 0 && used + (size_t)n < sizeof list)
            used += (size_t)n;
    }
    argp_error(state, "%s%s takes one of %s, not '%s'", cli_origin(state), flag, list, text);
    return 0;
}

bool cli_store(const struct argp_state *state, const cli_member *members, int key, const char *arg) {
    const cli_member *m = members;
    while (m->key && m->key != key)
        m++;
    if (!m->key)
        return false;
    void *at = (char *)state->input + m->at;
    if (m->kind == CLI_WORD)
        *(const char **)at = arg;
    else if (m->kind == CLI_SWITCH)
        *(bool *)at = true;
    else if (m->kind == CLI_FLOAT)
        *(float *)at = (float)cli_real_flag(state, m->flag, arg, m->min, m->max);
    else {
        const long long value = cli_integer_flag(state, m->flag, arg, (long long)m->min, (long long)m->max);
        if (m->kind == CLI_INT)
            *(int *)at = (int)value;
        else
            *(size_t *)at = (size_t)value;
    }
    return true;
}

/* Only async-signal-safe calls. */
static void on_interrupt(int sig) {
    if (cli_interrupted && !interrupt_patient)
        _exit(CLI_INTERRUPTED + sig);
    cli_interrupted = sig;
}

/* The page is gone that somebody read. Only async-signal-safe calls; other threads may get here as well. */
static void on_bus_error(int sig, siginfo_t *info, void *context) {
    static const char sentence[] =
        "nibble: a file that was being read was cut short, or could not be read any more\n";
    static atomic_flag told = ATOMIC_FLAG_INIT;
    (void)context;
    if (info->si_code != BUS_ADRERR) {
        signal(sig, SIG_DFL); /* it was sent: it ends the program when this returns */
        raise(sig);
        return;
    }
    while (atomic_flag_test_and_set(&told))
        pause();
    outtemp_remove_live();
    ssize_t written = write(STDERR_FILENO, sentence, sizeof sentence - 1);
    (void)written;
    _exit(CLI_BAD_INPUT);
}

void cli_catch_bus_error(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

void cli_catch_interrupt(bool patient) {
    interrupt_patient = patient;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    if (patient)
        return;
    struct sigaction before;
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) /* nohup's stays */
        sigaction(SIGHUP, &action, NULL);
}
