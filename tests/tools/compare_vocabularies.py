#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nibble tokenize against llama.cpp's own test data: models/ggml-vocab-*.gguf with .inp (texts) and .out (their ids).

They lie in llama.cpp's repository and in the source distribution of the Python package llama-cpp-python
(pip download --no-deps --no-binary llama-cpp-python llama-cpp-python; vendor/llama.cpp/models). Prints a line per
vocabulary: how many texts give the same ids, or why the vocabulary is refused. Exits 1 when ids differ.

usage: compare_vocabularies.py NIBBLE MODELS
"""
import pathlib
import subprocess
import sys

SEPARATOR = b"\n__ggml_vocab_test__\n"
TEXT = "the cat sat on the mat\n"


def ids(nibble, vocabulary, text):
    done = subprocess.run([nibble, "tokenize", vocabulary, "--ids", "--no-bos"], input=text, capture_output=True)
    if done.returncode:
        return None, done.stderr.decode(errors="replace").strip().removeprefix("nibble: ").replace(f"{vocabulary}: ", "")
    return [int(x) for x in done.stdout.split()], ""


def compare(nibble, vocabulary):
    """-> (texts with the same ids, texts, why it is refused or "", the first text that differs or None)"""
    cases = vocabulary.with_name(vocabulary.name + ".inp")
    if not cases.exists():
        return 0, 0, ids(nibble, vocabulary, TEXT.encode())[1], None
    texts = cases.read_bytes().split(SEPARATOR)[:-1] # the last separator ends the file
    outs = vocabulary.with_name(vocabulary.name + ".out").read_text().split("\n")[:len(texts)]
    same, first = 0, None
    for text, out in zip(texts, outs):
        found, why = ids(nibble, vocabulary, text)
        if found is None:
            return 0, len(texts), why, None
        if found == [int(x) for x in out.split()]:
            same += 1
        elif first is None:
            first = text
    return same, len(texts), "", first


def main():
    nibble, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    passed = refused = differ = 0
    for vocabulary in sorted(folder.glob("ggml-vocab-*.gguf")):
        same, n, why, first = compare(nibble, vocabulary)
        name = vocabulary.stem.removeprefix("ggml-vocab-")
        passed += same
        refused += n if why else 0
        differ += 0 if why else n - same
        print(f"| {name} | {f'{same} of {n}' if n else 'no texts'} | {why or ('ids differ: ' + repr(first) if first is not None else 'pass' if n else 'opens')} |",
              flush=True)
    print(f"{passed} texts pass, {refused} are refused, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
