# SPDX-License-Identifier: Apache-2.0
"""What block scales that FP8 holds with every code (quantize --fp8-exact) cost in squared error, whatever the tensor's
scale, and what blocks of powers of two, which FP8 holds under every scale, give back. Blocks of 16 drawn from a
distribution; the best scale by squared error for each.

usage: exact_scales.py [BLOCKS]      (default: 20000)
"""
import sys

import numpy

E4M3 = numpy.array([m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0**(e - 7) for e in range(16) for m in range(8)])[:127]
CODES = numpy.array([0, .5, 1, 1.5, 2, 3, 4, 6])
POWERS = numpy.array([0, .5, 1, 2, 4])
ALL = numpy.arange(1, 127)
EXACT = numpy.array([c for c in range(1, 0x69) if c % 2 == 0 and (c < 8 or c % 8 != 6)])


def least(blocks, tensor_scale, scales, codes, reach):
    """The least squared error of each block among SCALES from half to REACH times the scale that puts its largest at 6."""
    ideal = blocks.max(1) / 6 / tensor_scale
    best = numpy.full(len(blocks), numpy.inf)
    middles = (codes[1:] + codes[:-1]) / 2
    for value in E4M3[scales]:
        near = (value > ideal * .5) & (value < ideal * reach)
        step = value * tensor_scale
        rounded = codes[numpy.searchsorted(middles, blocks[near] / step)] * step
        best[near] = numpy.minimum(best[near], ((blocks[near] - rounded)**2).sum(1))
    return best


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
    draw = numpy.random.default_rng(0)
    kinds = {"normal": draw.normal(size=(n, 16)), "Laplace": draw.laplace(size=(n, 16)),
             "t, 5 degrees": draw.standard_t(5, size=(n, 16)),
             "normal, rows of many sizes": draw.normal(size=(n, 16)) * numpy.exp(.4 * draw.normal(size=(n, 1)))}
    print("| blocks | exact scales, of 8 tensor scales in an octave: best | worst | and powers of two: best | blocks of powers |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, x in kinds.items():
        blocks = abs(x)
        free = least(blocks, blocks.max() / 2688, ALL, CODES, 4).sum()
        found = []
        for phase in numpy.arange(0, 1, 1 / 8):
            scale = blocks.max() / 384 * 2**phase
            exact, powers = least(blocks, scale, EXACT, CODES, 4), least(blocks, scale, ALL, POWERS, 6)
            found.append((exact.sum() / free, numpy.minimum(exact, powers).sum() / free, (powers < exact).mean()))
        a, b, share = zip(*found)
        print(f"| {name} | {min(a):.3f} | {max(a):.3f} | {min(b):.3f} | {100 * max(share):.1f} % |")


main()
