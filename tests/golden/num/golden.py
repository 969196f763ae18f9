# SPDX-License-Identifier: Apache-2.0
"""What the scripts that make golden truth share with the C tests (golden.h): generator, checksum, file form."""
import sys
import zlib

import numpy as np


def words(seed, n, start=0):
    """Words start..start+n-1 of the stream SEED: splitmix64's finalizer of a counter."""
    with np.errstate(over="ignore"):
        i = np.arange(start, start + n, dtype=np.uint64)
        z = np.uint64(seed * 0xD1342543DE82EF95 % 2**64) + (i + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def crc(array):
    return f"{zlib.crc32(np.ascontiguousarray(array).tobytes()):08x}"


def bits(array):
    """FP32 bit patterns with one NaN, so that payloads do not count."""
    b = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32).copy()
    b[(b & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
    return b


def head(out, script, *modules):
    print(f"# made by {script} with " + ", ".join(f"{m.__name__} {m.__version__}" for m in modules), file=out)
    print("# python", sys.version.split()[0], file=out)
