# SPDX-License-Identifier: Apache-2.0
"""Truth of the NVFP4 quantizers, from nvidia-modelopt, compressed-tensors and fouroversix.

    PYTHONPATH=tests/golden/num python3 tests/golden/quant/make_nvfp4.py > tests/golden/quant/nvfp4.txt

Needs torch, ml_dtypes, nvidia-modelopt, compressed-tensors and fouroversix (its PyTorch reference alone: the
`src` folder of its source distribution on PYTHONPATH is enough). Inputs are three tensors [1024, 1024] that
golden_tensor (tests/unit/quant/golden_tensor.h) makes too:

    fp32   bell-shaped, with blocks of zeros, of -0, of one number only, with an outlier, and very small ones
    bf16   the same from another seed, rounded to BF16
    ties   every element on a tie or a code of its block, every E4M3 scale; amax 10.5

fouroversix's PyTorch reference does not saturate: where the scale of a tiny block rounds down so far that an
element passes 7, it rounds to 8, which its packing turns into code 8, minus zero. Its kernels saturate (the
conversion instruction does), and so does nibble: here the reference gets its input clamped to +-6, and the
number of blocks where that matters is printed.

Per tensor and method: the scale of the tensor (FP32 bits), checksums of the codes [1024, 512] and of the
block scales [1024, 64], and the first 8 bytes of both.
"""
import sys

import compressed_tensors
import ml_dtypes
import modelopt
import numpy as np
import torch
from compressed_tensors.compressors.nvfp4.helpers import quantize_and_pack_fp4
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from fouroversix.quantize.pytorch import reference
from fouroversix.utils import DataType, RoundStyle, ScaleRule
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

from golden import crc, head, words
from tensors import COLS, N, ROWS, bell

TIES = np.array([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 5.5], np.float32)


def ties():
    h, w = words(31, N // 16), words(32, N)
    code = (1 + h % np.uint64(126)).astype(np.uint8)
    code[0] = 126
    scale = code.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(2.0**-8)
    x = TIES[(w & np.uint64(15)).astype(np.int64)] * np.where(w >> np.uint64(63), np.float32(-1), np.float32(1))
    x = x.reshape(-1, 16)
    x[:, 0] = 6
    return (x * scale[:, None]).reshape(ROWS, COLS).astype(np.float32)


def report(name, scale, codes, scales):
    c = codes.reshape(ROWS, COLS // 2).view(torch.uint8).numpy()
    s = scales.reshape(ROWS, COLS // 16).contiguous().view(torch.uint8).numpy()
    bits = np.array([float(scale)], np.float32).view(np.uint32)[0]
    print(name, f"{bits:x}", crc(c), crc(s), *(f"{b:x}" for b in c.ravel()[:8]), *(f"{b:x}" for b in s.ravel()[:8]))


def run_modelopt(name, x):
    q, scales, scale_2 = NVFP4QTensor.quantize(x.clone(), 16)
    report(f"{name}.modelopt", scale_2, q._quantized_data, scales)


def run_compressed(name, x):
    args = preset_name_to_scheme("NVFP4A16", ["Linear"]).weights
    low, high = torch.aminmax(x.reshape(ROWS, -1, 16), dim=-1)
    gparam = generate_gparam(low.min(), high.max())
    scales, _ = calculate_qparams(low, high, args, global_scale=gparam)
    codes = quantize_and_pack_fp4(x.float(), scales.float(), global_scale=gparam, group_size=16)
    report(f"{name}.compressed", gparam, codes, scales.to(torch.float8_e4m3fn))


def saturating(original):
    def cast(x, **options):
        saturating.blocks |= (x.abs() > 7).any(dim=-1)
        return original(x.clamp(-6, 6), **options)
    return cast


reference.fake_quantize_to_e2m1 = saturating(reference.fake_quantize_to_e2m1)


def run_fouroversix(name, x):
    saturating.blocks = torch.zeros(N // 16, dtype=torch.bool)
    codes, scales, amax = reference.quantize_to_fp4(
        x, fp4_format=DataType.nvfp4, scale_rule=ScaleRule.mse, round_style=RoundStyle.nearest,
        use_blackwell_scale_layout=False)
    report(f"{name}.fouroversix", amax / 1536.0, codes, scales)
    print(f"{name}.saturated {int(saturating.blocks.sum()):x}")


def main():
    import importlib.metadata as meta

    head(sys.stdout, "tests/golden/quant/make_nvfp4.py", torch, modelopt, np)
    print("# compressed-tensors", meta.version("compressed-tensors"), "fouroversix 1.0.5 ml_dtypes", ml_dtypes.__version__)
    bf16 = torch.from_numpy(bell(21)).to(torch.bfloat16)
    for name, x in (("fp32", torch.from_numpy(bell(11))), ("bf16", bf16), ("ties", torch.from_numpy(ties()))):
        print(f"{name}.input", crc(x.float().numpy()))
        run_modelopt(name, x)
        run_compressed(name, x.float())
        run_fouroversix(name, x)
    run_compressed("bf16.step", bf16)  # the library's arithmetic when the weights are BF16


main()
