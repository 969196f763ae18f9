#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that the machine code of the GPU kernels holds the tensor-core instruction that each was written for, and none that
is illegal: CUDA 13.0's assembler gave cp.async with a cache hint a descriptor at an odd register.

Reads the objects of a CUDA build with cuobjdump (the one that CUOBJDUMP names, or in PATH, /usr/local/cuda or .venv, where
scripts/setup cuda puts one); prints one line a kernel file and generation, exits 1 when one lacks its instruction or has an
illegal one. Generations that the build left out (NIBBLE_CUDA_ARCHS) are said, not failed; a missing cuobjdump is said in a line
that scripts/test counts. Quickly compiled (build/kernels) a file holds each instruction once, in a function of its own.

usage: check_sass.py [BUILD]      (default build/cuda)
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# file -> generation -> instruction (SASS mnemonic, as a regular expression), or several
HMMA = r"HMMA\.16816\.F32\.BF16"
ILLEGAL = r"desc\[UR\d*[13579]\]"
WANTED = {
    "cuda/gpu/any/decode.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "cuda/gpu/any/thin_products.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/gemv.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/gemv16.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/grouped.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/tile_bf16.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "cuda/gpu/sm90/prefill_wgmma.cu": {"sm_90": r"HGMMA\.64x128x16\.F32"},
    "gemm/gpu/sm90/pairs.cu": {"sm_90": HMMA},
    "gemm/gpu/sm90/few.cu": {"sm_90": r"HGMMA\.64x16x16\.F32\.BF16"},
    "gemm/gpu/sm90/experts.cu": {"sm_90": tuple(rf"HGMMA\.64x{n}x16\.F32\.BF16" for n in (8, 16, 32))},
    "gemm/gpu/sm90/wgmma_e4m3.cu": {"sm_90": r"QGMMA\.64x256x32\.F32\.E4M3\.E4M3"},
    "gemm/gpu/sm90/wgmma_bf16.cu": {"sm_90": r"HGMMA\.64x256x16\.F32\.BF16"},
    "gemm/gpu/sm120/tile_e2m1.cu": {"sm_120": r"OMMA.*16864.*E2M1"},
    "gemm/gpu/sm89/tile_e4m3.cu": dict.fromkeys(("sm_89", "sm_120"), (r"QMMA\.16832\.F32\.E4M3\.E4M3",
                                                                    r"QMMA\.16816\.F32\.E4M3\.E4M3")),
}


def count_by_generation(tool, path, instructions):
    """generation -> expression -> how many lines of PATH's machine code hold it: INSTRUCTIONS of each generation, and ILLEGAL.
    Line by line, for an object may be hundreds of MB of text."""
    found, here = {}, None
    with subprocess.Popen([tool, "--dump-sass", path], stdout=subprocess.PIPE, text=True) as tool_runs:
        for line in tool_runs.stdout:
            if line.lstrip().startswith("arch = "):
                generation = line.split()[2].rstrip("af")
                here = found.setdefault(generation, dict.fromkeys((*instructions.get(generation, ()), ILLEGAL), 0))
                searches = [(one, re.compile(one).search) for one in here]
            elif here is not None and ";" in line:
                for one, search in searches:
                    here[one] += search(line) is not None
    if tool_runs.returncode:
        raise subprocess.CalledProcessError(tool_runs.returncode, tool)
    return found


def find_tool():
    here = sorted(map(str, ROOT.glob(".venv/lib/python3*/site-packages/nvidia/cu*/bin/cuobjdump")))
    for name in (os.environ.get("CUOBJDUMP"), "cuobjdump", "/usr/local/cuda/bin/cuobjdump", *here):
        if name and shutil.which(name):
            return name
    return None


def check(tool, build, source):
    """The lines to print about SOURCE, and how many faults they tell of."""
    objects = list(build.glob(f"CMakeFiles/*.dir/src/{source}.o"))
    if not objects:
        return [f"{source}: no object in {build}: build it first"], 1
    wanted = {generation: (one,) if isinstance(one, str) else one for generation, one in WANTED[source].items()}
    found = count_by_generation(tool, objects[0], wanted)
    lines, bad = [], 0
    for generation, instructions in wanted.items():
        if generation not in found:
            lines.append(f"{source} {generation}: not in this build")
            continue
        counts = found[generation]
        lines += [f"{source} {generation}: {counts[one]} x {one}" for one in instructions]
        bad += any(counts[one] == 0 for one in instructions)
        if counts[ILLEGAL]:
            lines.append(f"{source} {generation}: {counts[ILLEGAL]} illegal, {ILLEGAL}")
            bad += 1
    return lines, bad


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/cuda")
    tool = find_tool()
    if not tool:
        print("SKIPPED [1] no cuobjdump, so no look at the machine code: scripts/setup cuda brings one, CUOBJDUMP may name one")
        return 0
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS") or os.cpu_count())) as pool:
        for lines, faults in pool.map(lambda source: check(tool, build, source), WANTED):
            print("\n".join(lines))
            bad += faults
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
