# SPDX-License-Identifier: Apache-2.0
"""NVFP4 in NumPy: the round-to-nearest encoder, bit-equal to the library's, and the decoder."""
import numpy as np

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _e4m3_table():
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(1 + mantissa / 8, exponent - 7)).astype(np.float32)


E4M3 = _e4m3_table()  # by code, 0 .. 0x7E


def _e4m3_codes(x):
    """Nearest codes of 0 <= x <= 448, ties to even."""
    above = np.clip(np.searchsorted(E4M3, x), 1, 126)
    low, high = E4M3[above - 1].astype(np.float64), E4M3[above].astype(np.float64)
    middle = (low + high) / 2
    up = (x > middle) | ((x == middle) & (above % 2 == 0))
    return np.where(up, above, above - 1).astype(np.uint8)


def is_float(values):
    """Of numbers that rounding is for; ml_dtypes' bfloat16 is no type of NumPy's own."""
    return np.issubdtype(values.dtype, np.floating) or values.dtype.name == "bfloat16"


def encode(values):
    """values [n, k], k a multiple of 16 -> codes U8 [n, k/2] (element 2i in the low nibble), scales E4M3 [n, k/16],
    tensor scale."""
    x = np.ascontiguousarray(values, np.float32)
    n, k = x.shape
    blocks = np.abs(x).reshape(n, k // 16, 16)
    amax = blocks.max(-1)
    most = amax.max(initial=np.float32(0))
    scale = max(np.float32(most / np.float32(2688)), np.finfo(np.float32).tiny) if most > 0 else np.float32(1)
    block_scale = amax / np.float32(np.float32(6) * scale)
    block_scale[block_scale == 0] = 1
    scales = _e4m3_codes(np.clip(block_scale, np.float32(2**-9), np.float32(448)))
    step = (E4M3[scales] * np.float32(scale))[..., None]
    y = x.reshape(n, k // 16, 16) / step
    a = np.abs(y)
    index = ((a > 0.25).astype(np.uint8) + (a >= 0.75) + (a > 1.25) + (a >= 1.75) + (a > 2.5) + (a >= 3.5) + (a > 5))
    codes = (index | ((y < 0).astype(np.uint8) << 3)).reshape(n, k).astype(np.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales, np.float32(scale)


def decode(codes, scales, tensor_scale):
    """The inverse: FP32 [n, k]."""
    n, half = codes.shape
    elements = np.stack([codes & 15, codes >> 4], -1).reshape(n, half * 2)
    return (E2M1[elements].reshape(n, -1, 16) * E4M3[scales][..., None] * np.float32(tensor_scale)).reshape(n, half * 2)
