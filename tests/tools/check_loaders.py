#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Loads quantized directories with the packages whose conventions they follow, and compares the values they read with
those of the model that nibble makes of the same directory in BF16: compressed-tensors through transformers, ModelOpt's by
its own tensor classes. Needs torch, transformers, compressed-tensors, nvidia-modelopt and ml_dtypes.

usage: check_loaders.py NIBBLE DIRECTORY ...
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

BLOCK = {"nvfp4": 16, "mxfp4": 32}


def values_by_nibble(nibble, directory, out):
    """What nibble reads, rounded to BF16."""
    subprocess.run([nibble, "quantize", directory, out, "--format", "bf16"], check=True, capture_output=True)
    return load_file(out / "model.safetensors")


def values_by_compressed_tensors(directory):
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                                 quantization_config=CompressedTensorsConfig(dequantize=True))
    model(torch.tensor([[1, 2, 3]]))  # it runs
    return model.state_dict()


def values_by_modelopt(directory):
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    stored, out = load_file(directory / "model.safetensors"), {}
    for name, t in stored.items():
        scale, double = stored.get(name + "_scale"), stored.get(name + "_scale_2")
        if t.dim() != 2 or name.endswith("_scale"):
            continue
        shape = torch.Size((t.shape[0], 2 * t.shape[1]))
        if t.dtype == torch.uint8 and double is not None:
            q = NVFP4QTensor(shape, torch.float32, t)
            out[name] = q.dequantize(torch.float32, scale=scale, double_scale=double, block_sizes={-1: BLOCK["nvfp4"]})
        elif t.dtype == torch.uint8:
            q = MXFP4QTensor(shape, torch.float32, t)
            out[name] = q.dequantize(torch.float32, scale=scale.reshape(-1, 1), block_sizes={-1: BLOCK["mxfp4"]})
        elif t.dtype == torch.float8_e4m3fn:
            out[name] = t.float() * scale
    return out


def main():
    nibble, *directories = sys.argv[1:]
    bad = 0
    for directory in map(pathlib.Path, directories):
        method = json.loads((directory / "config.json").read_text())["quantization_config"]["quant_method"]
        read = values_by_compressed_tensors(directory) if method == "compressed-tensors" else values_by_modelopt(directory)
        with tempfile.TemporaryDirectory() as temporary:
            ours = values_by_nibble(nibble, directory, pathlib.Path(temporary) / "wide")
            names = [n for n in ours if n.endswith("_proj.weight") and n in read]
            differ = sum(int((read[n].to(torch.bfloat16) != ours[n]).sum()) for n in names)
            total = sum(ours[n].numel() for n in names)
        print(f"{directory.name}: {method}, {len(names)} matrices, {differ} of {total} values differ")
        bad += differ or not names
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
