# SPDX-License-Identifier: Apache-2.0
"""What refusing each file of tests/golden/bad costs: time and memory of the program, as docs/results/robustness.md
has it.

usage: report_bad_files.py [NIBBLE]      (default build/release/nibble; exit code 1 if one is not refused as expected)
"""
import collections
import os
import pathlib
import sys
import tempfile

import measured

tree = pathlib.Path(__file__).resolve().parents[2]
bad = tree / "tests" / "golden" / "bad"
nibble = sys.argv[1] if len(sys.argv) > 1 else tree / "build" / "release" / "nibble"


def run(command, path):
    name, *flags = command.split()
    arguments = [str(nibble), name, *flags, str(path)]
    if name == "quantize":
        arguments.append(str(pathlib.Path(tempfile.gettempdir()) / f"report-bad-files-{os.getpid()}"))
    if name == "run":
        arguments += ["hi", "--max-tokens", "1"] + ([] if flags else ["--no-chat"])
    code, _, words, seconds, kib = measured.run(arguments)
    return code, words, seconds, kib


def main():
    rows, wrong = collections.defaultdict(list), []
    for line in (bad / "EXPECTED.tsv").read_text().splitlines():
        path, room, command, code, sentence = line.split("\t")
        got, words, seconds, kib = run(command, bad / path)
        sentence = sentence.replace("{}", str(bad / path)).replace("{dir}", str(bad))
        if got != int(code) or words != f"nibble: {sentence}\n":
            wrong.append(path)
        kind = "GGUF" if path.endswith(".gguf") else "safetensors" if path.endswith(".safetensors") else "directory"
        rows[kind, room].append((seconds, kib))
    _, _, base_seconds, base_kib = run("inspect", bad / "good" / "llama.gguf")
    print("| files | refused by | number | slowest, ms | most memory, MiB |")
    print("| --- | --- | ---: | ---: | ---: |")
    for (kind, room), found in sorted(rows.items()):
        print(f"| {kind} | {room} | {len(found)} | {1000 * max(s for s, _ in found):.0f} | "
              f"{max(k for _, k in found) / 1024:.1f} |")
    everything = [x for found in rows.values() for x in found]
    print(f"| all | | {len(everything)} | {1000 * max(s for s, _ in everything):.0f} | "
          f"{max(k for _, k in everything) / 1024:.1f} |")
    print(f"\nA sound tiny model: {1000 * base_seconds:.0f} ms, {base_kib / 1024:.1f} MiB. "
          f"Not refused as expected: {', '.join(wrong) if wrong else 'none'}.")
    return bool(wrong)


sys.exit(main())
