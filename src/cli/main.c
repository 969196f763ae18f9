/* SPDX-License-Identifier: Apache-2.0
 *
 * The program: finds the command and hands over. Everything else is in the commands.
 */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "cli/cli.h"

static void print_help(FILE *out) {
    fputs("Usage: nibble COMMAND [ARGUMENTS]\n"
          "Runs, quantizes and measures language models in 4-bit floating point.\n\n"
          "Commands:\n",
          out);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(out, "  %-10s %s\n", c->name, c->summary);
    fputs("\nOptions:\n"
          "  -h, --help     this text; `nibble COMMAND --help` tells about one command\n"
          "  -V, --version  the version\n"
          "\nExit status: 0 done, 1 bad input, 2 wrong usage; 128 + the signal's number when interrupted\n",
          out);
    if (!cli_commands[0].name)
        return;
    fputs("\nExamples:\n", out);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(out, "  %s\n", c->example);
}

static const cli_command *find(const char *name) {
    for (const cli_command *c = cli_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static int refuse(const char *name) {
    enum { MAX_COMMANDS = 32 };
    const char *names[MAX_COMMANDS + 1];
    int n = 0;
    for (const cli_command *c = cli_commands; c->name && n < MAX_COMMANDS; c++)
        names[n++] = c->name;
    names[n] = NULL;
    const char *near = strcmp(name, "chat") == 0 ? "run" : nearest_name(name, names);
    if (near)
        return cli_say(CLI_WRONG_USAGE, "there is no command '%s'; did you mean '%s'?", name, near);
    return cli_say(CLI_WRONG_USAGE, "there is no command '%s'; `nibble --help` lists them", name);
}

/* Runs COMMAND with argv[0] = "nibble COMMAND", the name that its messages begin with. */
static int start(const cli_command *command, int argc, char **argv) {
    char name[64];
    snprintf(name, sizeof name, "nibble %s", command->name);
    argv[0] = name;
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of its writer, in words */
    return cli_finish_output(command->run(argc, argv));
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, "");
    cli_catch_bus_error();
    const char *first = argc > 1 ? argv[1] : NULL;
    if (!first) {
        print_help(stderr);
        return CLI_WRONG_USAGE;
    }
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
        puts("nibble " NIB_VERSION);
        return cli_finish_output(CLI_OK);
    }
    bool help = strcmp(first, "help") == 0;
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 || (help && argc == 2)) {
        print_help(stdout);
        return cli_finish_output(CLI_OK);
    }
    const cli_command *command = find(help ? argv[2] : first);
    if (!command)
        return refuse(help ? argv[2] : first);
    if (help) {
        char text[] = "--help";
        char *help_argv[] = {NULL, text, NULL};
        return start(command, 2, help_argv);
    }
    return start(command, argc - 1, argv + 1);
}
