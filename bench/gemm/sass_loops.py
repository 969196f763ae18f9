#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the innermost loops of an object's kernels hold, by opcode: those with instructions of the tensor cores, over the
stages that the compiler unrolled into one turn.

usage: sass_loops.py OBJECT [PART OF A KERNEL'S NAME]      OBJECT: build/cuda/CMakeFiles/room_gemm_cu.dir/src/gemm/gpu/.../*.cu.o

cuobjdump is the one that CUOBJDUMP names, or in PATH (scripts/setup cuda brings one: .venv/lib/python3*/site-packages/nvidia/cu*/bin)."""
import collections
import os
import re
import subprocess
import sys


def kernels(text):
    """name -> [(address, instruction)]"""
    found, at = {}, None
    for line in text.splitlines():
        if name := re.search(r"Function : (\S+)", line):
            at = found.setdefault(name[1], [])
        elif (code := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", line)) and at is not None:
            at.append((int(code[1], 16), code[2]))
    return found


def shortest_loop(code):
    """The instructions of the shortest loop that multiplies."""
    place, loops = {address: i for i, (address, _) in enumerate(code)}, []
    for i, (address, words) in enumerate(code):
        back = re.search(r"BRA.* 0x([0-9a-f]+)", words)
        if back and int(back[1], 16) < address and int(back[1], 16) in place:
            body = [words for _, words in code[place[int(back[1], 16)]:i + 1]]
            if any("MMA" in words for words in body):
                loops.append(body)
    return min(loops, key=len, default=[])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    told = subprocess.run([os.environ.get("CUOBJDUMP", "cuobjdump"), "-sass", sys.argv[1]], capture_output=True, text=True, check=True).stdout
    for name, code in kernels(told).items():
        body = shortest_loop(code) if sys.argv[2:] == [] or sys.argv[2] in name else []
        counts = collections.Counter(re.sub(r"^@!?\w+ ", "", words).split()[0].split(".")[0] for words in body)
        if body:
            print(f"{name}: {len(body)} instructions: " + ", ".join(f"{op} {n}" for op, n in counts.most_common()))


main()
