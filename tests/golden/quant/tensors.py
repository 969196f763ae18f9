# SPDX-License-Identifier: Apache-2.0
"""The numbers that the reference packages get, from integers: golden_tensor.h makes the same bits in C."""
import numpy as np

from golden import words

ROWS = COLS = 1024
N = ROWS * COLS


def bell(seed):
    """About normal, deviation 0.036, from integers: the same bits in C."""
    w, v = words(seed, N), words(seed + 1, N)
    m = np.uint64(0xFFFF)
    total = sum(((w >> np.uint64(16 * k)) & m).astype(np.int64) for k in range(4)) - 131070
    x = total.astype(np.float32) * np.float32(2.0**-20)
    x = x * (np.float32(1) + (v & m).astype(np.float32) * np.float32(2.0**-22))
    x = x.reshape(-1, 16)
    h = words(seed + 2, N // 16)
    kind, lane = h & np.uint64(31), ((h >> np.uint64(8)) & np.uint64(15)).astype(np.int64)
    shift = ((h >> np.uint64(16)) & np.uint64(31)).astype(np.int64)
    rows = np.arange(N // 16)
    single = np.zeros_like(x)
    single[rows, lane] = x[rows, lane]
    x[rows[kind == 1], lane[kind == 1]] *= np.float32(1024)
    x = np.where((kind == 0)[:, None], np.float32(0), x)
    x = np.where((kind == 2)[:, None], single, x)
    x = np.where((kind == 3)[:, None], np.float32(-0.0), x)
    scale = np.ldexp(np.float32(1), -shift).astype(np.float32)
    x = np.where((kind == 4)[:, None], x * scale[:, None], x)
    return x.reshape(ROWS, COLS).astype(np.float32)
