# SPDX-License-Identifier: Apache-2.0
"""FP4 matrix products: NVFP4 weights times BF16 activations.

PyTorch tensors on a GPU are used where they lie, on the current stream; NumPy arrays take the CPU path, which is written
to be read. The names fp4_* mean what they mean in fp4-cuda-kernel; there is no padding, no global state and no hidden
synchronization (sync=True excepted, which asks for one).

    cache = nibble.FP4WeightCache(weight)              # [n, k], quantized once
    y = nibble.fp4_cached_linear(x, cache, bias)       # x [..., k] -> [..., n]
    layer = nibble.Linear.from_float(torch_linear)     # a torch.nn.Module
    y = nibble.FP4Experts(weights, bias)(x, offsets)   # rows of x sorted by expert
"""
from .fp4 import (FP4Experts, FP4Weight, FP4WeightCache, cleanup, explain, fp4_cached_linear, fp4_linear, fp4_matmul, fp4_quantize,
                  prealloc, sync)
from .library import NibbleError

__all__ = ["FP4Experts", "FP4Weight", "FP4WeightCache", "Linear", "NibbleError", "cleanup", "explain", "fp4_cached_linear", "fp4_linear",
           "fp4_matmul", "fp4_quantize", "prealloc", "sync"]
__version__ = "0.1.0"


def __getattr__(name):  # Linear needs torch, the rest does not
    if name == "Linear":
        from .linear import Linear
        return Linear
    raise AttributeError(f"module 'nibble' has no attribute '{name}'")
