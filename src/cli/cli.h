/* SPDX-License-Identifier: Apache-2.0
 *
 * What every command of the program shares: the command table, exit codes, how an error is said, checked
 * numbers, and the flags that choose how a model computes.
 *
 * A command is one file src/cli/cmd_NAME.c with `int cmd_NAME(int argc, char **argv)`; argv[0] is
 * "nibble NAME". It parses with cli_parse, returns an exit code and never calls exit itself. A new command
 * adds its line to the table in commands.c (help is printed from there), to docs/man/nibble.1 and to
 * docs/completion/nibble.bash; a test compares the three.
 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <argp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "nibble.h"

/* Exit codes. Usage is judged before any file is opened: what depends on a file is bad input. */
#define CLI_OK          0
#define CLI_BAD_INPUT   1   /* a file, a text, a model, or the system */
#define CLI_WRONG_USAGE 2   /* flags and arguments; said by cli_parse's parsers alone */
#define CLI_INTERRUPTED 128 /* and the signal: what a shell makes of a program that a signal ended */

typedef struct cli_command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary; /* one line */
    const char *example;
} cli_command;

extern const cli_command cli_commands[]; /* ends with a NULL name */

int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_gemm(int argc, char **argv);
int cmd_devices(int argc, char **argv);

/* Parses with glibc's argp; a usage error prints a sentence and ends the program with CLI_WRONG_USAGE, --help
 * and --version with CLI_OK (argp's own behaviour). */
void cli_parse(const struct argp *argp, int argc, char **argv, void *input);
/* Where each argument of the ARGV to come stands: "FILE, line 3: ", or "" for the command line [argc]. */
void cli_set_origins(const char *const *origins, int argc);
/* That of the flag at hand, to begin a sentence with. */
const char *cli_origin(const struct argp_state *state);

/* The one argument that is not a flag, into *INTO (NULL before); a second one is a usage error. WHAT: its
 * name. */
void cli_one_argument(const struct argp_state *state, const char *what, const char *arg, const char **into);

/* Prints "nibble: sentence" on standard error and returns the exit code of STATUS. */
int cli_fail(nib_status status, const nib_error *err);
/* The same with words of one's own. */
int cli_say(int exit_code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Flushes standard output: a full disk or a closed pipe behind it is an error too. CODE, or CLI_BAD_INPUT. */
int cli_finish_output(int code);

/* Whole-text numbers within [min, max]; false otherwise. */
bool cli_integer(const char *text, long long min, long long max, long long *out);
bool cli_real(const char *text, double min, double max, double *out);

/* The same inside an argp parser: a bad number is a usage error that names FLAG and the range. */
long long cli_integer_flag(const struct argp_state *state, const char *flag, const char *text, long long min,
                           long long max);
/* ARG, the value of a flag that may have one, or the number that follows the flag as a word of its own. */
const char *cli_optional_number(struct argp_state *state, const char *arg);
int cli_context_flag(const struct argp_state *state, const char *text); /* of -c: llama.cpp's 0 is all */
double cli_real_flag(const struct argp_state *state, const char *flag, const char *text, double min,
                     double max);
/* Index of TEXT in NAMES (ends with NULL); a usage error that lists them otherwise. */
int cli_choice_flag(const struct argp_state *state, const char *flag, const char *text,
                    const char *const *names);

/* Where an option's value goes that only one member of a command's arguments (state->input) is about. */
typedef struct cli_member {
    int key;
    enum { CLI_WORD, CLI_SWITCH, CLI_INT, CLI_SIZE, CLI_FLOAT } kind; /* const char *, bool, int, ... */
    size_t at;                                                        /* offsetof the member */
    const char *flag; /* of a number: what a usage error calls it, and the range */
    double min, max;
} cli_member;

/* Stores ARG in the member of KEY among MEMBERS (which end with key 0); false: KEY is none of theirs. */
bool cli_store(const struct argp_state *state, const cli_member *members, int key, const char *arg);

/* "avx2", "avx512-vnni" or a number -> NIB_CPU_* mask. A name means its rung and all below it. */
bool cli_cpu_mask(const char *text, unsigned *mask);

/* How a model computes: --activations --kv-cache-dtype --threads --cpu-features --max-model-len. An argp
 * child; its input (state->child_inputs[i] of the parent, set at ARGP_KEY_INIT) is a nib_options. */
extern const struct argp cli_compute_argp;
extern const struct argp cli_compute_no_threads_argp; /* for a command with a --threads of its own */
extern const struct argp cli_device_argp;    /* with an --activations and --kv-cache-dtype of its own */
extern const struct argp cli_speculate_argp; /* --speculate --draft, likewise */
#define CLI_MAX_THREADS 1024
const char *cli_kv_name(nib_kv_dtype dtype);         /* "bf16", ... */
const char *cli_activations_name(nib_activations a); /* "int8", ... */

/* Ctrl-C asks instead of killing: after cli_catch_interrupt a SIGINT is kept in cli_interrupted (0: none); a
 * second one, while that is still set, ends the program at once. Unless PATIENT, SIGTERM and SIGHUP too. */
extern volatile sig_atomic_t cli_interrupted;
void cli_catch_interrupt(bool patient);

/* Files are read through maps. When one is cut short meanwhile, the system sends SIGBUS: then the program
 * says so, removes what it was writing and ends with CLI_BAD_INPUT. */
void cli_catch_bus_error(void);

#endif
