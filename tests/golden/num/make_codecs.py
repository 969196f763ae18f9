# SPDX-License-Identifier: Apache-2.0
"""Truth of the scalar codecs, from ml_dtypes and numpy.

    python3 tests/golden/num/make_codecs.py > tests/golden/num/codecs.txt

Needs ml_dtypes. Per format: a checksum over the codes of all 65,536 BF16 and all 65,536 FP16 patterns and of
2^20 random FP32 patterns, the codes of a list of special FP32 patterns (every tie and its neighbours, zeros,
subnormals, limits, infinities, NaN), and the FP32 bits of every code.
"""
import sys
import warnings

import ml_dtypes
import numpy as np

from golden import bits, crc, head, words

warnings.simplefilter("ignore")
FORMATS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}


def codes(x, fmt):
    return x.astype(fmt).view(np.uint8)


def special():
    """Every boundary between two neighbours of every format, the value below and above it, and the odd ones."""
    points = [0.0, -0.0, np.inf, -np.inf, np.nan, 2.0**-149, -(2.0**-149), 2.0**-126, 3.4e38, -3.4e38]
    for name, fmt in FORMATS.items():
        n = 16 if name == "e2m1" else 256
        v = np.arange(n, dtype=np.uint8).view(fmt).astype(np.float64)
        v = np.unique(v[np.isfinite(v) & (v >= 0)])
        if name == "e8m0":
            v = np.concatenate([v[:4], v[120:136], v[-3:]])
        for a, b in zip(v, v[1:]):
            points += [(a + b) / 2]
        top, step = v[-1], v[-1] - v[-2]
        points += [top, top + step / 2, top + step, 2 * top]
    p = np.array(points, np.float64).astype(np.float32)
    with np.errstate(over="ignore"):
        p = np.concatenate([p, np.nextafter(p, np.float32(0)), np.nextafter(p, np.float32(np.inf))])
    return np.concatenate([p, -p])


def main(out):
    head(out, "tests/golden/num/make_codecs.py", ml_dtypes, np)
    every = np.arange(65536, dtype=np.uint16)
    bf16, fp16 = every.view(ml_dtypes.bfloat16), every.view(np.float16)
    random = words(1, 1 << 20).astype(np.uint32).view(np.float32)
    points = special()
    print("special", *(f"{b:x}" for b in points.view(np.uint32)), file=out)
    for name, fmt in FORMATS.items():
        print(f"{name}.bf16", crc(codes(bf16, fmt)), file=out)
        print(f"{name}.fp16", crc(codes(fp16, fmt)), file=out)
        print(f"{name}.random", crc(codes(random, fmt)), file=out)
        print(f"{name}.special", *(f"{c:x}" for c in codes(points, fmt)), file=out)
        n = 16 if name == "e2m1" else 256
        values = np.arange(n, dtype=np.uint8).view(fmt).astype(np.float32)
        print(f"{name}.values", *(f"{b:x}" for b in bits(values)), file=out)
    finite = random[~np.isnan(random)]
    print("bf16.random", crc(finite.astype(ml_dtypes.bfloat16).view(np.uint16)), file=out)
    print("fp16.random", crc(finite.astype(np.float16).view(np.uint16)), file=out)
    # random bits seldom fall into half's range: the same with exponents around it
    near = ((words(2, 1 << 20) % np.uint64(50) + np.uint64(95)) << np.uint64(23)
            | words(3, 1 << 20) & np.uint64(0x807FFFFF)).astype(np.uint32).view(np.float32)
    print("fp16.near", crc(near.astype(np.float16).view(np.uint16)), file=out)
    print("bf16.values", crc(bits(bf16.astype(np.float32))), file=out)
    print("fp16.values", crc(bits(fp16.astype(np.float32))), file=out)


main(sys.stdout)
