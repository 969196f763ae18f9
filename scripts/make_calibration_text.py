#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/eval/calibration_text.c from src/eval/calibration_text.txt. Run it after changing the text; a unit
test (test_calibrate) fails when the two differ."""
from pathlib import Path

HEAD = """/* SPDX-License-Identifier: Apache-2.0
 *
 * The calibration text as C, made from calibration_text.txt by scripts/make_calibration_text.py: change the
 * text, not this file.
 */
#include "eval/calibrate.h"

// clang-format off
const char calibration_text[] =
"""
TAIL = """;
const size_t calibration_text_bytes = sizeof calibration_text - 1;
// clang-format on
"""


def c_string(chunk: bytes) -> str:
    out = []
    for byte in chunk:
        c = chr(byte)
        if c in '"\\':
            out.append("\\" + c)
        elif c == "\n":
            out.append("\\n")
        elif c == "?":
            out.append("\\?")  # no trigraphs
        elif 32 <= byte < 127:
            out.append(c)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


def main() -> None:
    folder = Path(__file__).resolve().parent.parent / "src" / "eval"
    text = (folder / "calibration_text.txt").read_bytes()
    lines = []
    for line in text.splitlines(keepends=True):
        lines += [c_string(line[i : i + 96]) for i in range(0, len(line), 96)]
    (folder / "calibration_text.c").write_text(HEAD + "\n".join(lines) + TAIL)


if __name__ == "__main__":
    main()
