#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that the machine code of the GPU kernels holds the tensor-core instruction that each was written for, and none that
is illegal: CUDA 13.0's assembler gave cp.async with a cache hint a descriptor at an odd register.

Reads the objects of a CUDA build with cuobjdump (CUDA toolkit); prints one line a kernel file and generation, exits 1 when
one lacks its instruction or has an illegal one. Generations that the build left out (NIBBLE_CUDA_ARCHS) are said, not failed.

usage: check_sass.py [BUILD]      (default build/cuda; CUOBJDUMP names the tool)
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

# file -> generation -> instruction (SASS mnemonic, as a regular expression)
HMMA = r"HMMA\.16816\.F32\.BF16"
ILLEGAL = r"desc\[UR\d*[13579]\]"
WANTED = {
    "cuda/gpu/any/decode.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/gemv.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/gemv16.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/grouped.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/any/tile_bf16.cu": dict.fromkeys(("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"), HMMA),
    "gemm/gpu/sm90/few.cu": {"sm_90": r"HGMMA\.64x16x16\.F32\.BF16"},
    "gemm/gpu/sm90/experts.cu": {"sm_90": r"HGMMA\.64x8x16\.F32\.BF16"},
    "gemm/gpu/sm90/wgmma_e4m3.cu": {"sm_90": r"QGMMA\.64x256x32\.F32\.E4M3\.E4M3"},
    "gemm/gpu/sm90/wgmma_bf16.cu": {"sm_90": r"HGMMA\.64x256x16\.F32\.BF16"},
    "gemm/gpu/sm120/tile_e2m1.cu": {"sm_120": r"OMMA.*16864.*E2M1"},
    "gemm/gpu/sm89/tile_e4m3.cu": {"sm_89": r"QMMA\.16832\.F32\.E4M3\.E4M3", "sm_120": r"QMMA\.16832\.F32\.E4M3\.E4M3"},
}


def sass_by_generation(tool, path):
    text = subprocess.run([tool, "--dump-sass", path], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*arch = (sm_\d+)[af]?$", text, flags=re.M)
    found = {}
    for generation, code in zip(parts[1::2], parts[2::2]):
        found[generation] = found.get(generation, "") + code
    return found


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/cuda")
    tool = os.environ.get("CUOBJDUMP") or shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")
    if not tool:
        print("SKIP: cuobjdump is missing (it comes with the CUDA toolkit, or name it in CUOBJDUMP)")
        return 0
    bad = 0
    for source, wanted in WANTED.items():
        objects = list(build.glob(f"CMakeFiles/*.dir/src/{source}.o"))
        if not objects:
            print(f"{source}: no object in {build}: build it first")
            bad += 1
            continue
        found = sass_by_generation(tool, objects[0])
        for generation, instruction in wanted.items():
            if generation not in found:
                print(f"{source} {generation}: not in this build")
                continue
            count = len(re.findall(instruction, found[generation]))
            illegal = len(re.findall(ILLEGAL, found[generation]))
            print(f"{source} {generation}: {count} x {instruction}{f', {illegal} illegal' if illegal else ''}")
            bad += count == 0 or illegal > 0
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
