#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the tokenizers' stress file: the same bytes every time, whatever the Python.

Every Unicode block, emoji sequences, combining marks, line ends and runs of spaces of every kind, long runs of one
character, contractions, digits, control tokens in the text, bytes that are no UTF-8.

The one thing left out: four-byte forms past U+10FFFF with all their continuation bytes, on which llama.cpp aborts.

usage: make_stress_text.py > FILE
"""
import hashlib
import random
import sys

CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "<bos>", "<eos>", "<pad>",
           "<unk>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>model\n", "<think>", "</think>",
           "<tool_call>", "</tool_call>", "<tool_response>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_pad|>",
           "<|repo_name|>", "<|file_sep|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>",
           "<issue_start>", "<jupyter_code>", "<empty_output>", "<unused0>", "<unused98>", "<unused99>", "[multimodal]",
           "<mask>", "<table>", "</table>", "<h1>", "</h6>", "<strong>", "<em>", "<code>", "<i>", "<b>", "<br>",
           "<|vision_start|>", "<|object_ref_end|>", "<|begin_of_text|>", "<|eot_id|>", "[INST]", "<<SYS>>", "<0x0A>",
           "<0x41>", "<|im_start", "<|im_start |>", "<<|im_end|>>", "<|im_end|><|im_end|>", "|im_end|>"]
EMOJI = ["\U0001F600", "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466", "\U0001F44D\U0001F3FD",
         "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7", "\u2764\uFE0F", "\u2764", "1\uFE0F\u20E3", "\U0001F3F4\U000E0067"
         "\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "\U0001F9D1\U0001F3FF\u200D\U0001F680", "\u263A\uFE0E",
         "\U0001FAE0", "\U0001F3F3\uFE0F\u200D\U0001F308", "\u200D", "\uFE0F\uFE0F"]
SPACES = [" ", "  ", "\t", "\n", "\r", "\r\n", "\n\r", "\v", "\f", "\x85", "\u00A0", "\u1680", "\u2003", "\u2028", "\u2029",
          "\u202F", "\u3000", "\u180E", "\u200B", "\uFEFF", "\u2581", "\u2581\u2581", "\x1c", "\x1f", "\x00"]
INVALID = [b"\x80", b"\xbf\xbf", b"\xc0\x80", b"\xc1\x81", b"\xc2", b"\xc2 ", b"\xe2\x96", b"\xe2\x96a", b"\xe2 \x96\x81",
           b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf0\x9f\x98", b"\xf0\x9f",
           b"\xf0", b"\xf0\x80\x80\x80", b"\xf4\x8f\xbf", b"\xf5", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff\xff\xff",
           b"\xe2\x82\xac\x80", b"\xc3\x28", b"\xa0\xa1", b"\xf0\x28\x8c\xbc", b"\xf0\x90\x28\xbc", b"\xe1\xa0\xc0"]
WORDS = ["the", "The", "quick", "don't", "I'LL", "we've", "they'RE", "'s", "'S", "'\u017f", "'ll'll", "it's'd", "naïve",
         "Ångström", "ﬁne", "ſ", "ß", "İstanbul", "русский", "Ελληνικά", "العربية", "עברית", "हिन्दी", "ไทย", "한국어",
         "日本語", "中文", "ქართული", "12345", "3.14", "1e-9", "0x1F", "٣٤٥", "Ⅷ", "½", "²³", "①", "１２３", "_snake_case",
         "camelCase", "a.b.c", "http://x.y/z?q=1&r=2", "!!!", "...", "--", "=>", "//", "/*", "({[", "]})", "\"'`", "$%^",
         "\\n", "#!/bin/sh", "if(x){y;}"]


def blocks(rng):
    """Characters of every block: the whole basic plane, samples of the other planes."""
    codes = [c for c in range(0x20, 0x10000) if not 0xD800 <= c < 0xE000]
    for first in range(0x10000, 0x110000, 0x80):
        plane = first >> 16
        codes += [first + k for k in sorted(rng.sample(range(0x80), 40 if plane in (1, 2, 3, 14) else 1))]
    line = []
    for k, c in enumerate(codes):
        line.append(chr(c))
        style = (c * 2654435761 >> 7) % 8
        if style == 0:
            line.append(" ")
        elif style == 1:
            line.append("a")
        elif style == 2:
            line.append("1")
        elif style == 3:
            line.append("'s")
        if k % 64 == 63:
            yield "".join(line) + "\n"
            line = []
    yield "".join(line)


def marks(rng):
    """Combining marks in and out of order, jamo, characters that normal form C changes."""
    combining = [c for c in (*range(0x300, 0x370), *range(0x591, 0x5C8), *range(0x64B, 0x660), 0x93C, 0x94D, 0x9BC, 0xBBE,
                             0xCD5, 0xF71, 0xF72, 0x1037, 0x1AB0, 0x1DF6, 0x1DFA, 0x20D0, 0x3099, 0x309A, 0x11930, 0x1D165,
                             0x1E130)]
    bases = [*map(ord, "aeiouAEnycsKLd=<"), 0xE9, 0x3B1, 0x439, 0x5D0, 0x627, 0x915, 0x9C7, 0xBC6, 0x1100, 0x1161, 0x11A8,
             0xAC00, 0x304B, 0x212B, 0x2126, 0xF900, 0xFB1D, 0x2F800, 0x0958, 0x11935, 0x1D157]
    for _ in range(4000):
        yield chr(rng.choice(bases)) + "".join(chr(rng.choice(combining)) for _ in range(rng.randrange(4)))
        if rng.randrange(5) == 0:
            yield rng.choice(" \n-")


def mixture(rng, n):
    for _ in range(n):
        kind = rng.randrange(20)
        if kind < 9:
            yield rng.choice(WORDS).encode()
        elif kind < 14:
            yield (rng.choice(SPACES) * rng.choice((1, 1, 1, 2, 3, 7, 40))).encode()
        elif kind < 16:
            yield rng.choice(CONTROL).encode()
        elif kind < 18:
            yield rng.choice(EMOJI).encode()
        else:
            yield rng.choice(INVALID)


def main():
    rng = random.Random(20260101)
    out = bytearray()
    for text in blocks(rng):
        out += text.encode()
    for text in marks(rng):
        out += text.encode()
    for piece in mixture(rng, 30000):
        out += piece
    for token in CONTROL:
        out += f" {token} x{token}y\n{token}\n  {token}  ".encode()
    for run in (" ", "\n", "\r\n", "\t", "a", "A", "=", "-", "1", "é", "好", "\u2581", "\U0001F600", "\u0301", " a", "ab", "\n ",
                "'s", "<", "\x00"):
        for n in (2, 3, 17, 64, 1001, 5000):
            out += b"x" + (run * n).encode() + b"y "
    for piece in INVALID:
        out += b" " + piece * 3 + b"z" + piece + b"\n"
    out += b"the end \xf0\x9f\x98"
    sys.stdout.buffer.write(out)
    print(len(out), hashlib.sha256(out).hexdigest(), file=sys.stderr)


if __name__ == "__main__":
    main()
