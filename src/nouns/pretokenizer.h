/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizers by the names that GGUF files give them (tokenizer.ggml.pre): by which regular expressions
 * text is cut before byte pairs are merged. Readers: text, which cuts by them; the writers, which spell them
 * as tokenizer.json does.
 */
#ifndef NOUNS_PRETOKENIZER_H
#define NOUNS_PRETOKENIZER_H

#include <stdbool.h>

#include "base/strview.h"

#define PRETOKENIZER_MAX_STEPS 6

/* The patterns of GPT-2, and of Qwen (DIGITS one "\\p{N}") and Llama 3 ("\\p{N}{1,3}"), as tokenizer.json
 * spells them. */
#define PRETOKENIZER_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PRETOKENIZER_WORDS(digits)                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                     \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PRETOKENIZER_EACH_NUMBER "\\p{N}"

typedef struct pretokenizer {
    const char *names; /* one or several, a blank between */
    const char
        *steps[PRETOKENIZER_MAX_STEPS];       /* in Oniguruma's syntax, one after the other; NULL ends them */
    const char *json[PRETOKENIZER_MAX_STEPS]; /* the model's own, where llama.cpp reads them otherwise */
    bool ignore_merges;                       /* a word that is a piece is not merged up to it */
    bool adds_bos;                            /* where the file does not say */
    bool nfc;        /* the model's own tokenizer.json asks for normal form C; GGUF does not */
    bool characters; /* symbols are characters, not GPT-2's letters; a space is U+2581; bytes are <0xNN> */
} pretokenizer;

const pretokenizer *pretokenizer_find(strview name); /* NULL: none that nibble knows */
/* The name for text that is cut by PATTERNS [n], as llama.cpp or tokenizer.json spells them; NULL: none. */
#define PRETOKENIZER_NAME_MAX 32
const char *pretokenizer_name(const char *const *patterns, size_t n, bool ignore_merges,
                              char out[PRETOKENIZER_NAME_MAX]);
/* The first name of every row, for sentences: "llama-bpe, qwen2, ...". */
#define PRETOKENIZER_LIST_MAX 1024
const char *pretokenizer_list(char out[PRETOKENIZER_LIST_MAX]);

#endif
