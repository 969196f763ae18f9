#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write src/num/gguf_grids.c: the lists of code vectors that GGUF's IQ formats are defined by, read from the
gguf package and packed.

    python3 tests/tools/make_gguf_grids.py > src/num/gguf_grids.c && clang-format-14 -i src/num/gguf_grids.c

An entry holds eight indices of two bits or four of three bits, the first in the lowest bits.
"""
from gguf import quants

GRIDS = [("gguf_grids_iq1", quants.IQ1_S), ("gguf_grids_iq2_xxs", quants.IQ2_XXS), ("gguf_grids_iq2_xs", quants.IQ2_XS),
         ("gguf_grids_iq2_s", quants.IQ2_S), ("gguf_grids_iq3_xxs", quants.IQ3_XXS), ("gguf_grids_iq3_s", quants.IQ3_S)]


def main():
    print("/* SPDX-License-Identifier: Apache-2.0\n *\n"
          " * Made by tests/tools/make_gguf_grids.py: see gguf_grids.h.\n */\n#include \"num/gguf_grids.h\"\n")
    for name, kind in GRIDS:
        kind.init_grid()
        rows, width = kind.grid_shape
        bits = 16 // width if width == 8 else 3
        indices = {value: i for i, value in enumerate(kind.grid_map)}
        grid = kind.grid.reshape(rows, width)
        packed = [sum(indices[int(v)] << bits * i for i, v in enumerate(row)) for row in grid]
        print(f"const uint16_t {name}[{rows}] = {{" + ", ".join(f"0x{p:04x}" for p in packed) + "};\n")


if __name__ == "__main__":
    main()
