# SPDX-License-Identifier: Apache-2.0
"""Truth of smoothing's factors, from nvidia-modelopt's smoothquant and awq_lite.

    PYTHONPATH=tests/golden/num python3 tests/golden/quant/make_smooth.py > tests/golden/quant/smooth.txt

Needs torch and nvidia-modelopt. The layer: the first 96 rows and 256 columns of bell(51), read by the first 64 rows of bell(61)
with every column j times 2^(j % 7 - 3). Per line: rule, strength, and the 256 factors s as FP32 bits; W s reads x / s.
"""
import contextlib
import sys

import modelopt
import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.quantization.nn import TensorQuantizer

from golden import bits, head
from tensors import bell

ROWS, COLS, INPUTS = 96, 256, 64


def layer():
    linear = torch.nn.Linear(COLS, ROWS, bias=False)
    linear.weight.data = torch.from_numpy(bell(51)[:ROWS, :COLS].copy())
    return torch.nn.Sequential(linear)


def report(rule, strength, factors):
    print(f"{rule} {strength:.2f}", *(f"{b:x}" for b in bits(factors.detach().float().numpy().reshape(COLS))))


def quantized(config, x, method, **settings):
    with contextlib.redirect_stdout(sys.stderr):
        return mtq.quantize(layer(), dict(config, algorithm={"method": method, **settings}), lambda m: m(x))[0]


def main():
    head(sys.stdout, "tests/golden/quant/make_smooth.py", torch, modelopt, np)
    x = torch.from_numpy(bell(61)[:INPUTS, :COLS] * np.exp2(np.arange(COLS) % 7 - 3).astype(np.float32))
    for strength in (0.25, 0.5, 0.75):
        linear = quantized(mtq.INT8_SMOOTHQUANT_CFG, x, "smoothquant", alpha=strength)
        report("smoothquant", strength, 1 / linear.input_quantizer.pre_quant_scale)
    tried, was = [], TensorQuantizer.pre_quant_scale  # awq_lite keeps the best factors alone
    TensorQuantizer.pre_quant_scale = property(was.fget, lambda q, value: (tried.append((q, value)), was.fset(q, value)))
    blocks = {"num_bits": 4, "block_sizes": {-1: 16, "type": "static"}}  # NVFP4's; its own quantizer needs a GPU
    config = {"quant_cfg": [{"quantizer_name": "*", "enable": False}, {"quantizer_name": "*weight_quantizer", "cfg": blocks}]}
    linear = quantized(config, x, "awq_lite", alpha_step=0.25)
    for k, factors in enumerate([v for q, v in tried if q is linear.weight_quantizer][:5]):
        report("awq", k / 4, factors)


main()
