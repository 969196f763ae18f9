/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble tokenize: text to ids and back, with the tokenizer of a model (or of a directory that holds only a
 * tokenizer). Needs no weights.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/ui.h"
#include "store/model_file.h"
#include "text/tokenizer.h"

typedef struct tokenize_args {
    const char *model, *words, *text; /* the text itself, or its file */
    bool ids, no_bos, no_special, decode;
} tokenize_args;

static const struct argp_option options[] = {
    {"text", 't', "FILE", 0, "Read FILE instead of standard input", 0},
    {"ids", 'i', NULL, 0, "Print only the ids, on one line", 0},
    {"no-bos", 'B', NULL, 0, "Do not put the beginning-of-sequence token first", 0},
    {"no-special", 'S', NULL, 0,
     "Take control tokens in the text for plain text (when decoding: leave them out)", 0},
    {"decode", 'd', NULL, 0, "The other way: read ids, print text", 0},
    {0}};

static const cli_member members[] = {{'t', CLI_WORD, offsetof(tokenize_args, text), NULL, 0, 0},
                                     {'i', CLI_SWITCH, offsetof(tokenize_args, ids), NULL, 0, 0},
                                     {'B', CLI_SWITCH, offsetof(tokenize_args, no_bos), NULL, 0, 0},
                                     {'S', CLI_SWITCH, offsetof(tokenize_args, no_special), NULL, 0, 0},
                                     {'d', CLI_SWITCH, offsetof(tokenize_args, decode), NULL, 0, 0},
                                     {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    tokenize_args *a = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (state->arg_num > 1)
            argp_error(state, "'%s' is one argument too many: put the text in quotes", arg);
        *(state->arg_num ? &a->words : &a->model) = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->model)
            argp_error(state, "expected a MODEL");
        if (a->words && a->text)
            argp_error(state, "one of TEXT and --text");
        if (a->decode && a->ids)
            argp_error(state, "--ids and --decode exclude each other");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL [TEXT]",
    .doc = "Turns TEXT, or what is piped in, into token ids: one id and its text per line, or the bare ids "
           "with --ids. Control tokens "
           "such as <|im_end|> in the text become their ids unless --no-special is given. MODEL is a GGUF "
           "file, a model directory, or a directory with a tokenizer.json.\v"
           "Examples:\n"
           "  nibble tokenize model.gguf \"Hello\"\n"
           "  nibble tokenize model.gguf --ids < text.txt | nibble tokenize model.gguf --decode",
};

/* ---- input ---- */

typedef struct input {
    char *copy;
    const char *bytes;
    size_t n;
} input;

static nib_status read_input(const tokenize_args *a, input *in, nib_error *err) {
    if (a->words) {
        *in = (input){.bytes = a->words, .n = strlen(a->words)};
        return NIB_OK;
    }
    const nib_status status = files_read(a->text ? a->text : "-", &in->copy, &in->n, err);
    in->bytes = in->copy;
    return status;
}

/* ---- encoding ---- */

/* A piece on one line: quotes, backslashes and unprintable bytes escaped, UTF-8 as it is. A piece may hold a
 * part of a character: a terminal gets that escaped too. */
static void print_piece(strview text, bool terminal) {
    putchar('"');
    for (size_t i = 0; i < text.n;) {
        size_t bytes = 1;
        const unsigned char byte = (unsigned char)text.p[i];
        if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else if (byte == '\n')
            fputs("\\n", stdout);
        else if (byte == '\t')
            fputs("\\t", stdout);
        else if (byte < 0x20 || byte == 0x7F)
            printf("\\x%02x", byte);
        else
            bytes = ui_put_char(stdout, terminal, text.p + i, text.n - i);
        i += bytes;
    }
    putchar('"');
}

static nib_status encode(const tokenizer *t, const tokenize_args *a, const input *in, nib_error *err) {
    const bool terminal = ui_is_terminal(stdout);
    token_list list = {0};
    nib_status status = NIB_OK;
    if (tokenizer_adds_bos(t) && !a->no_bos)
        status = token_list_push(&list, tokenizer_bos(t), err);
    if (status == NIB_OK)
        status = tokenizer_encode(t, in->bytes, in->n, a->no_special ? TOKENIZE_NO_SPECIAL : 0, &list, err);
    for (size_t i = 0; status == NIB_OK && i < list.n; i++) {
        if (a->ids) {
            printf(i ? " %d" : "%d", (int)list.ids[i]);
        } else {
            printf("%d\t", (int)list.ids[i]);
            print_piece(tokenizer_piece(t, list.ids[i], true), terminal);
            putchar('\n');
        }
    }
    if (status == NIB_OK && a->ids)
        putchar('\n');
    token_list_free(&list);
    return status;
}

/* ---- decoding ---- */

static bool is_separator(char c) {
    return c == ' ' || c == ',' || c == '[' || c == ']' || (c >= '\t' && c <= '\r');
}

/* The next id at *at; false at the end of the input. */
static nib_status next_id(const tokenizer *t, const input *in, size_t *at, int32_t *id, bool *found,
                          nib_error *err) {
    size_t i = *at;
    while (i < in->n && is_separator(in->bytes[i]))
        i++;
    const size_t start = i;
    size_t value = 0;
    while (i < in->n && in->bytes[i] >= '0' && in->bytes[i] <= '9' && value < tokenizer_vocab(t))
        value = 10 * value + (size_t)(in->bytes[i++] - '0');
    *found = i > start;
    *at = i;
    *id = (int32_t)value;
    if ((i < in->n && !is_separator(in->bytes[i])) || (*found && value >= tokenizer_vocab(t)))
        return nib_fail(err, NIB_BAD_FILE, "the input at byte %zu is no id below %zu", start,
                        tokenizer_vocab(t));
    return NIB_OK;
}

static nib_status decode(const tokenizer *t, const tokenize_args *a, const input *in, nib_error *err) {
    detokenizer d = {0};
    char *out = NULL;
    size_t room = 0;
    nib_status status = NIB_OK;
    const bool terminal = ui_is_terminal(stdout);
    bool first = true, found = true;
    for (size_t at = 0; status == NIB_OK;) {
        int32_t id = 0;
        status = next_id(t, in, &at, &id, &found, err);
        if (status != NIB_OK || !found)
            break;
        const bool own_bos =
            first && !a->no_bos && tokenizer_adds_bos(t) && id == tokenizer_bos(t); /* put there by us */
        first = false;
        if (own_bos)
            continue;
        const size_t need = DETOKENIZER_ROOM(tokenizer_piece(t, id, true).n);
        if (need > room) {
            char *grown = mem_resize(out, need, 1);
            if (!grown) {
                status = nib_fail(err, NIB_NO_MEMORY, "no memory for a piece of text");
                break;
            }
            out = grown;
            room = need;
        }
        ui_put_text(stdout, terminal, out, detokenizer_push(t, &d, id, !a->no_special, out));
    }
    char rest[DETOKENIZER_ROOM(0)];
    if (status == NIB_OK)
        ui_put_text(stdout, terminal, rest, detokenizer_flush(&d, rest));
    mem_free(out);
    return status;
}

static nib_status tokenize(const tokenize_args *a, nib_error *err) {
    model_file *model = NULL;
    tokenizer *t = NULL;
    input in = {0};
    nib_status status = model_file_open_words(&model, a->model, err);
    if (status == NIB_OK)
        status = tokenizer_open(&t, &model->words, err);
    if (status == NIB_OK)
        status = read_input(a, &in, err);
    if (status == NIB_OK)
        status = a->decode ? decode(t, a, &in, err) : encode(t, a, &in, err);
    mem_free(in.copy);
    tokenizer_close(t);
    model_file_close(model);
    return status;
}

int cmd_tokenize(int argc, char **argv) {
    tokenize_args args = {0};
    cli_parse(&argp, argc, argv, &args);
    nib_error err = {""};
    const nib_status status = tokenize(&args, &err);
    return cli_finish_output(cli_fail(status, &err));
}
