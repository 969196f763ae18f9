#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Normal form C and the pre-tokenizer's classes over all of Unicode: nibble against the package tokenizers.

Every character alone and between letters, every character followed by marks of several classes, decomposed forms,
random runs of marks: tokenized by both with Qwen3's tokenizer.json (NFC, \\p{L}, \\p{N}, \\s).

usage: check_nfc.py NIBBLE QWEN3_DIRECTORY     (exit code 1 when ids differ)
"""
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Tokenizer


def lines():
    rng = random.Random(9)
    codes = [c for c in range(0x20, 0x110000) if not 0xD800 <= c < 0xE000 and c not in (0x7F, 0x85, 0x2028, 0x2029)]
    marks = [c for c in codes if unicodedata.combining(chr(c))] + [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    for c in codes:
        t = chr(c)
        yield f"a{t}b {t}1{t} {t}{t}.{t}"
        yield "x".join(t + "".join(chr(rng.choice(marks)) for _ in range(k)) for k in (1, 2, 3))
        for form in ("NFD", "NFKD"):
            d = unicodedata.normalize(form, t)
            if d != t:
                yield f"{d} {d[:1]}\u0323{d[1:]}"
    for _ in range(20000):
        yield "".join(chr(rng.choice(marks)) for _ in range(rng.randrange(1, 40)))


def main():
    nibble, folder = sys.argv[1:]
    text = "\n".join(lines())
    with tempfile.NamedTemporaryFile() as f:
        f.write(text.encode())
        f.flush()
        done = subprocess.run([nibble, "tokenize", folder, "--ids", "--text", f.name], check=True, capture_output=True)
    ours = [int(x) for x in done.stdout.split()]
    theirs = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text, add_special_tokens=False).ids
    same = ours == theirs
    print(f"{len(text)} characters, {len(theirs)} ids: {'no difference' if same else 'DIFFERENT'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
