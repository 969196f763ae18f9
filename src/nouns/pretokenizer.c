/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of pre-tokenizers. Sources: llama.cpp's src/llama-vocab.cpp for names, flags and what its classes
 * mean (to it \p{Lu} and \p{Ll} are any letter, contractions are ASCII), the models' tokenizer.json. Left out
 * are three that look ahead to the end of a run of digits at each of them (afmoe, superbpe, tiny_aya).
 */
#include "nouns/pretokenizer.h"

#include <stdio.h>
#include <string.h>

#define SHORT_FORMS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define LETTERS     "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define OTHERS      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define LINE_ENDS   "\\s*[\\r\\n]+"
#define SPACES      "\\s+(?!\\S)|\\s+"

/* Words that begin with capitals, or are all capitals; M: marks count as letters, or "". TAIL may follow. */
#define CASED(m, tail)                                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}" m "&&[^a-z]]*[\\p{L}" m "&&[^A-Z]]+" tail                                \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}" m "&&[^a-z]]+[\\p{L}" m "&&[^A-Z]]*" tail

/* The same as tokenizer.json spells it. */
#define CASED_JSON(tail)                                                                                     \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" tail         \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" tail
#define SHORT_FORMS_JSON "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define CHINESE_JAPANESE "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define ASIAN            "[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}&&[^\\s]]+"
#define HAN                                                                                                  \
    "\\x{3400}-\\x{4DBF}\\x{4E00}-\\x{9FFF}\\x{F900}-\\x{FAFF}\\x{20000}-\\x{2A6DF}"                         \
    "\\x{2A700}-\\x{2EBEF}\\x{2F800}-\\x{2FA1F}"
#define MARKED_WORDS(others)                                                                                 \
    "[!\"#$%&'()*+,\\-./"                                                                                    \
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" others

/* DeepSeek's letters with cases. */
#define CASED_LETTERS                                                                                        \
    "\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}"                    \
    "\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}"                   \
    "\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"           \
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"              \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"                           \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                           \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"                   \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"                  \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}"                           \
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}"                   \
    "\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}"          \
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}"                   \
    "\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}"         \
    "\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"                           \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"                           \
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}"                   \
    "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"

static const pretokenizer rows[] = {
    {.names = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     .steps = {PRETOKENIZER_WORDS("\\p{N}{1,3}")},
     .ignore_merges = true,
     .adds_bos = true},
    {.names = "qwen2 deepseek-r1-qwen megrez kormo f2llmv2",
     .steps = {PRETOKENIZER_WORDS("\\p{N}")},
     .nfc = true},
    {.names = "stablelm2 hunyuan solar-open grok-2", .steps = {PRETOKENIZER_WORDS("\\p{N}")}},
    {.names = "dbrx smaug-bpe chatglm-bpe", .steps = {PRETOKENIZER_WORDS("\\p{N}{1,3}")}},
    {.names = "glm4 glm5", .steps = {PRETOKENIZER_WORDS("\\p{N}{1,3}")}, .ignore_merges = true},
    {.names =
         "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert "
         "jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe",
     .steps = {PRETOKENIZER_GPT2}},
    {.names = "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
     .steps = {PRETOKENIZER_EACH_NUMBER, PRETOKENIZER_GPT2}},
    {.names = "qwen35",
     .steps = {SHORT_FORMS
               "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
               "|" LINE_ENDS "|" SPACES},
     .json = {SHORT_FORMS_JSON
              "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
              "|" LINE_ENDS "|" SPACES},
     .nfc = true},
    {.names = "gpt-4o llama4 kanana2 talkie minimax-m2",
     .steps = {CASED("", SHORT_FORMS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS
                                          "|" SPACES},
     .json = {CASED_JSON(SHORT_FORMS_JSON "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS
                                               "|" SPACES}},
    {.names = "granite-embed-multi-97m",
     .steps = {CASED("\\p{M}", SHORT_FORMS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS
                                                "|" SPACES},
     .ignore_merges = true},
    {.names = "tekken",
     .steps = {CASED("", "") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS "|" SPACES},
     .json = {CASED_JSON("") "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS "|" SPACES},
     .ignore_merges = true,
     .adds_bos = true},
    {.names = "youtu",
     .steps = {"[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|"
               "[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}"
               "\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|" CHINESE_JAPANESE,
               "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+" SHORT_FORMS
               "?|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINE_ENDS "|" SPACES},
     .ignore_merges = true},
    {.names = "deepseek-llm",
     .steps = {"[\\r\\n]", "\\s?[" CASED_LETTERS "]+",
               "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3001}-\\x{3002}]+",
               "\\s+\\z", ASIAN, "\\p{N}+"}},
    {.names = "deepseek-coder", .steps = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", ASIAN, "\\p{N}"}},
    {.names = "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
     .steps = {"\\p{N}{1,3}", CHINESE_JAPANESE,
               MARKED_WORDS(" ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINE_ENDS "|" SPACES)}},
    {.names = "spark2_5",
     .steps = {"\\p{N}{1,3}", CHINESE_JAPANESE, MARKED_WORDS(" ?[\\p{P}\\p{S}]+|[\\r\\n]|" SPACES),
               "\\p{N}"}},
    {.names = "kimi-k2",
     .steps = {"[" HAN "]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}&&[^" HAN "]]+" SHORT_FORMS "?|\\p{N}{1,3}|" OTHERS
               "|" LINE_ENDS "|" SPACES}},
    {.names = "falcon", .steps = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", PRETOKENIZER_GPT2, "[0-9][0-9][0-9]"}},
    {.names = "default",
     .steps = {"[\\p{P}\\$\\+<=>\\^~\\|]+", PRETOKENIZER_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = "bloom poro-chat gpt3-finnish",
     .steps = {" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"}},
    {.names = "viking",
     .steps = {" ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+", "\\p{N}"}},
    {.names = "chameleon",
     .steps = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
               "[\\p{P}!-/:-@\\[-`{-~]", PRETOKENIZER_GPT2},
     .adds_bos = true},
    {.names = "jais-2",
     .steps = {SHORT_FORMS "|" LETTERS "|\\p{N}{1,3}|" OTHERS "|" LINE_ENDS
                           "|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)"
                           "|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s"}},
    {.names = "bailingmoe bailingmoe2 llada-moe",
     .steps = {SHORT_FORMS "|" LETTERS "|\\p{N}|" OTHERS "|\\s*[\\r\\n]|" SPACES}},
    {.names = "seed-coder",
     .steps = {SHORT_FORMS "|" LETTERS "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" LINE_ENDS "|" SPACES}},
    {.names = "ufakzeka", .steps = {LETTERS "|\\p{N}|" OTHERS "|" LINE_ENDS "|" SPACES}},
    {.names = "laguna", .steps = {"[^\\n]+|[\\n]+", PRETOKENIZER_WORDS("\\p{N}")}},
    {.names = "exaone-moe",
     .steps = {SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}"
                           "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|" SPACES}},
    {.names = "minicpm5",
     .steps = {"\\p{N}{1,3}", SHORT_FORMS "|" LETTERS "|\\p{N}+|" OTHERS "|" LINE_ENDS "|" SPACES},
     .ignore_merges = true},
    {.names = "gemma4 granite-embed-multi-311m",
     .steps = {"[^\\n]+|[\\n]+"},
     .adds_bos = true,
     .characters = true},
    {.names = "sarvam-moe", .steps = {"[^\\n]+|[\\n]+"}, .characters = true},
};
#define N_ROWS (sizeof rows / sizeof rows[0])

/* Is NAME one of NAMES? */
static bool among(const char *names, strview name) {
    for (const char *p = names; *p;) {
        const size_t n = strcspn(p, " ");
        if (n == name.n && memcmp(p, name.p, n) == 0)
            return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

const pretokenizer *pretokenizer_find(strview name) {
    for (size_t i = 0; i < N_ROWS; i++)
        if (among(rows[i].names, name))
            return &rows[i];
    return NULL;
}

static bool same(const char *const steps[PRETOKENIZER_MAX_STEPS], const char *const *patterns, size_t n) {
    size_t i = 0;
    while (i < PRETOKENIZER_MAX_STEPS && steps[i] && i < n && strcmp(steps[i], patterns[i]) == 0)
        i++;
    return n > 0 && i == n && (i == PRETOKENIZER_MAX_STEPS || !steps[i]);
}

const char *pretokenizer_name(const char *const *patterns, size_t n, bool ignore_merges,
                              char out[PRETOKENIZER_NAME_MAX]) {
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].ignore_merges == ignore_merges && !rows[i].characters &&
            (same(rows[i].steps, patterns, n) || same(rows[i].json, patterns, n))) {
            snprintf(out, PRETOKENIZER_NAME_MAX, "%.*s", (int)strcspn(rows[i].names, " "), rows[i].names);
            return out;
        }
    return NULL;
}

const char *pretokenizer_list(char out[PRETOKENIZER_LIST_MAX]) {
    size_t n = 0;
    for (size_t i = 0; i < N_ROWS && n < PRETOKENIZER_LIST_MAX; i++)
        n += (size_t)snprintf(out + n, PRETOKENIZER_LIST_MAX - n, "%s%.*s", i ? ", " : "",
                              (int)strcspn(rows[i].names, " "), rows[i].names);
    return out;
}
