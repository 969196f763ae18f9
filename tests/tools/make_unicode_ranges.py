#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write src/text/unicode_ranges.c: the Unicode classes that tokenizers' patterns see.

The categories come from the `tokenizers` package itself (what its \\p{Lu}, \\p{Han}, \\s, Digits, ... match); the age
of a character, which separates llama.cpp's older tables, from unicodedata2 15.1.0 in OLD; the characters that
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
    """code -> (assigned, combining class, canonical decomposition, category) of the unicodedata2 in FOLDER"""
    program = (
        "import unicodedata2 as u\n"
        "print(u.unidata_version)\n"
        "for c in range(0x110000):\n"
        "    t = chr(c)\n"
        "    d = u.decomposition(t)\n"
        "    print(int(u.category(t) != 'Cn'), u.combining(t), '' if '<' in d else d, u.category(t), sep=';')\n"
    )
    lines = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": folder}, check=True,
                           capture_output=True, text=True).stdout.split("\n")
    rows = [line.split(";") for line in lines[1:0x110001]]
    return lines[0], [(int(a), int(b), [int(x, 16) for x in d.split()], category) for a, b, d, category in rows]


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
        _, combining, decomposition, _ = new[c]
        if combining and not known(c):
            strangers.add(c)
        if len(decomposition) == 2:
            pair = "".join(map(chr, decomposition))
            full = nfc.normalize_str(chr(c))
            if full == chr(c) and nfc.normalize_str(pair) == pair:
                first, second = decomposition
                strangers.add(first if new[second][1] and known(second) else second)
    return strangers


CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf").split()


def print_table(head, items):
    print(head)
    line = "   "
    for item in items:
        if len(line) + len(item) > 110:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


def main():
    _, old = unicode_data(sys.argv[1])
    new_version, new = unicode_data(sys.argv[2])
    of = {name: matched(pre_tokenizers.Split(Regex(r"\p{%s}" % name), "removed")) for name in [*CATEGORIES, "Han", "L", "N"]}
    spaces = matched(pre_tokenizers.Split(Regex(r"\s"), "removed"))
    assert spaces == of["Zs"] | of["Zl"] | of["Zp"] | {9, 10, 11, 12, 13, 0x85}
    assert of["L"] == set().union(*(of[c] for c in CATEGORIES if c[0] == "L"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    digits = {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}
    assert of["N"] <= digits
    changed = [c for name in CATEGORIES for c in of[name] if old[c][0] and old[c][3][0] != name[0]]
    assert not changed, f"of another class in Unicode 15.1: {changed[:9]}"
    rows = sorted((first, last, name, int(fresh)) for name in CATEGORIES for fresh in (False, True)
                  for first, last in ranges({c for c in of[name] if bool(old[c][0]) != fresh}))
    strangers = nfc_strangers(new)
    assert not any(c < 0x300 for c in strangers)
    print("/* SPDX-License-Identifier: Apache-2.0")
    print(" *")
    print(" * Written by tests/tools/make_unicode_ranges.py: do not edit. Unicode's categories as the reference tokenizers")
    print(" * know them (tokenizers %s; 1: assigned after Unicode 15.1, unknown to llama.cpp), what is Han, the numbers"
          % tokenizers.__version__)
    print(" * that only their Digits know, and the combining or composing characters of Unicode %s that their NFC does"
          % new_version)
    print(" * not know.")
    print(" */")
    print('#include "text/char_class.h"\n')
    print("/* clang-format off */")
    print_table("const unicode_range unicode_ranges[] = {",
                [' {0x%X, 0x%X, "%s", %d},' % row for row in rows])
    print("const size_t n_unicode_ranges = sizeof unicode_ranges / sizeof unicode_ranges[0];")
    for name, codes in (("unicode_han", of["Han"]), ("unicode_digits", digits - of["N"]), ("nfc_strangers", strangers)):
        print()
        print_table("const unicode_span %s[] = {" % name, [" {0x%X, 0x%X}," % tuple(r) for r in ranges(codes)])
        print("const size_t n_%s = sizeof %s / sizeof %s[0];" % (name, name, name))
    print("/* clang-format on */")


if __name__ == "__main__":
    main()
