#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nibble's tokenizer beside the package tokenizers: the same tokenizer.json, the same text, one thread, in turns.

usage: tokenizer_speed.py BENCH_TOKENIZER TEXT TOKENIZER.json...
BENCH_TOKENIZER is build/release/bench_tokenizer (ninja -C build/release bench_tokenizer). Figures are CPU time, the
best of 5 rounds; for tokenizers both ways of use: the whole text as one string (offsets and all), and line by line.
"""
import json
import os
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, __version__  # noqa: E402  (reads the variable)


def best(work, rounds):
    seconds = 1e30
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds = min(seconds, time.process_time() - start)
    return seconds


def main():
    bench, path, *files = sys.argv[1:]
    text = open(path, encoding="utf-8", errors="replace").read()
    lines, size = text.splitlines(keepends=True), os.path.getsize(path) / 1e6
    print(f"tokenizers {__version__}; {os.path.basename(path)}, {size:.2f} MB")
    print("| tokenizer.json | nibble MB/s | tokenizers MB/s, one string | line by line | nibble opens in s | tokenizers |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for file in files:
        tok = Tokenizer.from_file(file)
        ours, whole, by_line = None, 1e30, 1e30
        for _ in range(5):
            done = subprocess.run([bench, file, path, "1"], check=True, capture_output=True, text=True)
            result = json.loads(done.stdout)
            if ours is None:
                ours = result
            ours = {key: min(ours[key], result[key]) for key in ours}
            whole = min(whole, best(lambda: tok.encode(text, add_special_tokens=False), 1))
            by_line = min(by_line, best(lambda: [tok.encode(x, add_special_tokens=False) for x in lines], 1))
        opening = best(lambda: Tokenizer.from_file(file), 3)
        name = os.path.basename(os.path.dirname(os.path.abspath(file)))
        print(f"| {name} | {size / ours['encode_s']:.1f} | {size / whole:.1f} | {size / by_line:.1f} | {ours['open_s']:.2f} | "
              f"{opening:.2f} |", flush=True)


if __name__ == "__main__":
    main()
