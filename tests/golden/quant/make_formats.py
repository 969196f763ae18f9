# SPDX-License-Identifier: Apache-2.0
"""Truth of weight formats that are evaluated only, from bitsandbytes (NF4) and torchao (MXFP4).

    PYTHONPATH=tests/golden/num python3 tests/golden/quant/make_formats.py > tests/golden/quant/formats.txt

Needs torch, bitsandbytes and torchao. The input is make_nvfp4.py's bell-shaped tensor [1024, 1024] of another seed.
Per format: a checksum of the values that it leaves (FP32 bits, one zero), and the first eight of them. nf4:double, of the same numbers
clipped at 0.12, where scales differ: the mean squared error and the first 64 scales (bitsandbytes on a CPU finds the codes
of scales in a table of 2^16 places, so those close to the middle of two codes may get the other one).
"""
import sys

import bitsandbytes
import bitsandbytes.functional
import numpy as np
import torch
import torchao
from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode

from golden import bits, crc, head
from tensors import COLS, ROWS, bell


def report(name, values):
    found = bits(values.float().numpy().reshape(ROWS, COLS) + np.float32(0))
    print(name, crc(found), *(f"{b:x}" for b in found.ravel()[:8]))


def main():
    x = torch.from_numpy(bell(41))
    head(sys.stdout, "tests/golden/quant/make_formats.py", torch, bitsandbytes, torchao, np)
    print("input", crc(x.numpy()))
    codes, state = bitsandbytes.functional.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=False)
    report("nf4", bitsandbytes.functional.dequantize_4bit(codes, state))
    clipped = x.clamp(-0.12, 0.12)
    codes, state = bitsandbytes.functional.quantize_4bit(clipped, blocksize=64, quant_type="nf4", compress_statistics=True)
    scales = bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    error = (bitsandbytes.functional.dequantize_4bit(codes, state).double() - clipped).square().mean()
    print("nf4:double", *(f"{b:x}" for b in bits(np.array([error, *scales[:64]], np.float32))))
    for name, mode in (("mxfp4", ScaleCalculationMode.FLOOR), ("mxfp4:ceil", ScaleCalculationMode.CEIL),
                       ("mxfp4:rceil", ScaleCalculationMode.RCEIL)):
        report(name, MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32, mode).dequantize(torch.float32))


main()
