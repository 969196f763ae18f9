#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write src/text/unicode_ranges.c: the Unicode classes that tokenizers' patterns see.

The classes come from the `tokenizers` package itself (what its \\p{L}, \\p{N}, \\s and Digits match); the age of a
character, which separates llama.cpp's older tables, from unicodedata2 15.1.0 in OLD; the characters that
`tokenizers`' NFC does not know from unicodedata2 >= 17 in NEW. Each is installed with
`pip install --target DIR unicodedata2==VERSION`.

usage: make_unicode_ranges.py OLD NEW > src/text/unicode_ranges.c && clang-format -i src/text/unicode_ranges.c
"""
import subprocess
import sys

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def unicode_data(folder):
    """code -> (assigned, combining class, canonical decomposition) of the unicodedata2 in FOLDER"""
    program = (
        "import unicodedata2 as u\n"
        "print(u.unidata_version)\n"
        "for c in range(0x110000):\n"
        "    t = chr(c)\n"
        "    d = u.decomposition(t)\n"
        "    print(int(u.category(t) != 'Cn'), u.combining(t), '' if '<' in d else d, sep=';')\n"
    )
    lines = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": folder}, check=True,
                           capture_output=True, text=True).stdout.split("\n")
    rows = [line.split(";") for line in lines[1:0x110001]]
    return lines[0], [(int(a), int(b), [int(x, 16) for x in d.split()]) for a, b, d in rows]


def matched(pre_tokenizer):
    return {c for c in CODES if not pre_tokenizer.pre_tokenize_str(chr(c))}


def ranges(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def nfc_strangers(new):
    """Characters that combine or compose today but that `tokenizers`' NFC takes for plain ones."""
    nfc = normalizers.NFC()
    strangers = set()

    def known(c):
        """does it move past a mark of another class?"""
        pair = chr(c) + "\u0334" if new[c][1] > 1 else "\u0300" + chr(c)
        return nfc.normalize_str("a" + pair) != "a" + pair

    for c in CODES:
        _, combining, decomposition = new[c]
        if combining and not known(c):
            strangers.add(c)
        if len(decomposition) == 2:
            pair = "".join(map(chr, decomposition))
            full = nfc.normalize_str(chr(c))
            if full == chr(c) and nfc.normalize_str(pair) == pair:
                first, second = decomposition
                strangers.add(first if new[second][1] and known(second) else second)
    return strangers


def main():
    _, old = unicode_data(sys.argv[1])
    new_version, new = unicode_data(sys.argv[2])
    letters = matched(pre_tokenizers.Split(Regex(r"\p{L}"), "removed"))
    numbers = matched(pre_tokenizers.Split(Regex(r"\p{N}"), "removed"))
    spaces = matched(pre_tokenizers.Split(Regex(r"\s"), "removed"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    digits = {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}
    classes = [
        ("LETTER", {c for c in letters if old[c][0]}),
        ("NEW_LETTER", {c for c in letters if not old[c][0]}),
        ("NUMBER", {c for c in numbers if old[c][0]}),
        ("NEW_NUMBER", {c for c in numbers if not old[c][0]}),
        ("NEW_DIGIT", digits - numbers),
        ("SPACE", spaces),
    ]
    assert numbers <= digits
    strangers = nfc_strangers(new)
    assert not any(c < 0x300 for c in strangers)
    rows = sorted((first, last, name) for name, codes in classes for first, last in ranges(codes))
    print("/* SPDX-License-Identifier: Apache-2.0")
    print(" *")
    print(" * Written by tests/tools/make_unicode_ranges.py: do not edit. What the reference tokenizers take for")
    print(" * letters, numbers and white space (tokenizers %s; NEW_: assigned after Unicode 15.1, unknown to"
          % tokenizers.__version__)
    print(" * llama.cpp), and the combining or composing characters of Unicode %s that their NFC does not know." %
          new_version)
    print(" */")
    print('#include "text/char_class.h"\n')
    print("/* clang-format off */")
    print("const unicode_range unicode_ranges[] = {")
    line = "   "
    for first, last, name in rows:
        item = " {0x%X, 0x%X, RANGE_%s}," % (first, last, name)
        if len(line) + len(item) > 110:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")
    print("const size_t n_unicode_ranges = sizeof unicode_ranges / sizeof unicode_ranges[0];\n")
    print("const unicode_span nfc_strangers[] = {")
    line = "   "
    for first, last in ranges(strangers):
        item = " {0x%X, 0x%X}," % (first, last)
        if len(line) + len(item) > 110:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")
    print("const size_t n_nfc_strangers = sizeof nfc_strangers / sizeof nfc_strangers[0];")
    print("/* clang-format on */")


if __name__ == "__main__":
    main()
