# SPDX-License-Identifier: Apache-2.0
"""Truth of the GGUF block decoders, from the gguf package: checksums over the FP32 bits of 1,024 random blocks
of each format, and the first 8 values.

    python3 tests/golden/num/make_gguf_blocks.py > tests/golden/num/gguf_blocks.txt
"""
import sys
import warnings
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType, dequantize
from gguf.constants import GGML_QUANT_SIZES

from golden import bits, crc, words

warnings.simplefilter("ignore")
BLOCKS = 1024
# where the halves of a block lie: their top exponent bit is cleared, so that they are finite
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "IQ4_NL": [0], "MXFP4": [], "NVFP4": [], "Q2_K": [80, 82], "Q3_K": [108], "IQ4_XS": [0],
          "TQ1_0": [52], "TQ2_0": [64], "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0],
          "IQ3_XXS": [0], "IQ3_S": [0]}

print("# made by tests/golden/num/make_gguf_blocks.py with gguf", version("gguf"), "numpy", np.__version__)
for seed, (name, halves) in enumerate(HALVES.items(), start=100):
    kind = GGMLQuantizationType[name]
    size = GGML_QUANT_SIZES[kind][1]
    blocks = words(seed, BLOCKS * size).astype(np.uint8).reshape(BLOCKS, size)
    for h in halves:
        blocks[:, h + 1] &= 0xBF
    if name == "IQ1_M":  # its half lies in four pieces
        blocks[:, 55] &= 0xBF
    values = dequantize(blocks, kind).reshape(-1)
    if name.endswith("FP4"):
        values = values + np.float32(0)  # one zero: the package decodes code -0 as +0
    values = bits(values)
    print(name, crc(values), *(f"{b:x}" for b in values[:8]), file=sys.stdout)
