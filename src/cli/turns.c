/* SPDX-License-Identifier: Apache-2.0
 *
 * See turns.h.
 */
#include "cli/turns.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "cli/cli.h"
#include "cli/ui.h"

typedef nib_status (*turns_action)(reply *a, const char *argument, nib_error *err);

typedef struct turns_command {
    const char *name, *argument, *help; /* argument NULL: it takes none; "[X]": it may be left out */
    turns_action run;                   /* NULL: it leaves */
    bool of_chat;                       /* needs a conversation */
} turns_command;

static const turns_command commands[];

static nib_status show_help(reply *a, const char *argument, nib_error *err) {
    (void)argument, (void)err;
    for (const turns_command *c = commands; c->name; c++)
        if (a->chat || !c->of_chat) {
            char usage[32];
            snprintf(usage, sizeof usage, "\\%s %s", c->name, c->argument ? c->argument : "");
            printf("  %-16s %s\n", usage, c->help);
        }
    puts("  \"\"\"              begins a text of several lines, and ends it; so does \\ at a line's end go "
         "on");
    return NIB_OK;
}

static nib_status clear(reply *a, const char *argument, nib_error *err) {
    (void)argument, (void)err;
    talk_clear(&a->talk);
    return NIB_OK;
}

static nib_status save(reply *a, const char *path, nib_error *err) {
    return talk_save(&a->talk, path, err);
}

static nib_status load(reply *a, const char *path, nib_error *err) {
    NIB_TRY(talk_load(&a->talk, path, err));
    printf("%s(%zu messages)%s\n", ui_color(stdout, UI_DIM), json_array_size(a->talk.messages),
           ui_color(stdout, UI_RESET));
    return NIB_OK;
}

static nib_status set_system(reply *a, const char *text, nib_error *err) {
    return talk_set_system(&a->talk, *text ? text : NULL, err);
}

/* Another seed, or it would be the same answer. */
static nib_status regenerate(reply *a, const char *argument, nib_error *err) {
    (void)argument;
    if (!talk_take_back_answer(&a->talk))
        return nib_fail(err, NIB_BAD_ARGUMENT, "there is no question yet");
    a->seed = (a->seed + 1) & INT64_MAX;
    fprintf(stderr, "%s(seed %llu)%s\n", ui_color(stderr, UI_DIM), (unsigned long long)a->seed,
            ui_color(stderr, UI_RESET));
    return reply_turn(a, NULL, err);
}

static const turns_command commands[] = {
    {"help", NULL, "this list", show_help, false},
    {"clear", NULL, "forget the conversation; the system message stays", clear, true},
    {"regen", NULL, "answer the last question again, with another seed", regenerate, true},
    {"system", "[TEXT]", "the system message from now on; without TEXT: none", set_system, true},
    {"save", "FILE", "write the conversation, JSON", save, true},
    {"load", "FILE", "go on with a conversation that was saved", load, true},
    {"q", NULL, "leave; Ctrl-D does so too, and Ctrl-C twice", NULL, false},
    {NULL, NULL, NULL, NULL, false},
};

/* \word in a text of one line. */
static bool is_command(const char *text) {
    return text[0] == '\\' && isalpha((unsigned char)text[1]) && !strchr(text, '\n');
}

/* *leave: it was \q. */
static nib_status run_command(reply *a, const char *text, bool *leave, nib_error *err) {
    const size_t n = strcspn(text + 1, " \t");
    const char *argument = text + 1 + n;
    argument += strspn(argument, " \t");
    for (const turns_command *c = commands; c->name; c++) {
        if (strlen(c->name) != n || memcmp(c->name, text + 1, n) != 0 || (c->of_chat && !a->chat))
            continue;
        const bool takes = c->argument != NULL, needs = takes && c->argument[0] != '[';
        if ((*argument && !takes) || (!*argument && needs))
            return nib_fail(err, NIB_BAD_ARGUMENT, "\\%s takes %s", c->name,
                            takes ? c->argument : "nothing behind it");
        *leave = !c->run;
        return c->run ? c->run(a, argument, err) : NIB_OK;
    }
    return nib_fail(err, NIB_BAD_ARGUMENT,
                    "there is no command \\%.*s: \\help lists them; a blank before it makes it a text",
                    (int)n, text + 1);
}

static nib_status take_text(reply *a, const char *text, bool *leave, nib_error *err) {
    if (text[strspn(text, " \t\n")] == 0)
        return NIB_OK;
    if (is_command(text))
        return run_command(a, text, leave, err);
    return a->chat ? reply_turn(a, text, err) : reply_plain(a, text, err);
}

nib_status turns_run(reply *a, nib_error *err) {
    const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    a->lines = lines_open(a->chat ? "> " : "text> ");
    if (!a->lines)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    if (terminal)
        printf("%s\\help lists the commands; \\q or Ctrl-D leaves, Ctrl-C stops an answer.%s\n",
               ui_color(stdout, UI_DIM), ui_color(stdout, UI_RESET));
    const char *text = NULL;
    lines_result got;
    bool leave = false, asked = false; /* by Ctrl-C at the prompt */
    while (!leave && (got = lines_read_text(a->lines, &text)) != LINES_END) {
        if (got == LINES_INTERRUPTED) {
            leave = asked;
            asked = true;
            printf("\n%s", leave || !terminal ? "" : "(Ctrl-C again leaves)\n");
            continue;
        }
        asked = false;
        const nib_status status = take_text(a, text, &leave, err);
        cli_interrupted = 0;
        if (status == NIB_NO_MEMORY)
            return status;
        if (status != NIB_OK && status != NIB_CANCELLED)
            cli_fail(status, err);
    }
    return NIB_OK;
}
