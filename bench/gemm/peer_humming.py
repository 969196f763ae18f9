#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times of the package humming-kernels' products of NVFP4 weights, as CSV.

  peer_humming.py M,M,.. NxK ...

Weights cold in L2 (copies in turn), a CUDA graph, medians of 9 after 30 ms of warming up; activations BF16 (with 8 bits
the package refuses a scale per 16 on Hopper). A line of '# ' before each product says how far it is from one in FP64.
Needs a GPU, PyTorch and the package, which compiles its kernels when they are first used (--prepare: only that).
"""
import argparse
import copy
import json
import statistics
import sys
import time

import torch
from humming.layer import HummingLayer
from humming.tune import get_heuristics_config

COLD_BYTES = 256 << 20
MAX_COPIES = 24
REPLAYS = 9
WARM_SECONDS = 0.03


def layer_of(n, k):
    weights = {"dtype": "float4e2m1", "group_size": 16, "scale_dtype": "float8e4m3", "scale_2_type": "tensor"}
    return HummingLayer(shape_n=n, shape_k=k, weight_config=weights, torch_dtype=torch.bfloat16,
                        pad_n_to_multiple=256, pad_k_to_multiple=128).cuda()  # as vLLM


def layers_of(n, k, copies):
    """Copies of one layer, and its weights in FP64 as they are stored."""
    layer = layer_of(n, k)
    layer.load_from_unquantized(torch.randn((n, k), dtype=torch.bfloat16, device="cuda"))
    exact = layer.weight_schema.dequant_tensors(layer.state_dict()).double()
    layer.transform()
    return [layer] + [copy.deepcopy(layer) for _ in range(copies - 1)], exact


def tuning_of(layer, rows):
    """The package's own choice of kernels, those that ROWS take alone: the first product compiles all it is given."""
    return json.dumps([one for one in get_heuristics_config(layer_config=layer.humming_config)
                       if any(one[0] < m <= one[1] for m in rows)])


def time_graph(run, calls):
    for i in range(2):
        run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            run(i)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times, began = [], time.monotonic()
    while len(times) < REPLAYS:
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if time.monotonic() - began > WARM_SECONDS:
            times.append(begin.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


def measure(n, k, rows):
    layers, exact = layers_of(n, k, min(MAX_COPIES, COLD_BYTES // (n * k * 9 // 16) + 2))
    tuning = tuning_of(layers[0], rows)
    for m in rows:
        x = torch.randn((m, k), dtype=torch.bfloat16, device="cuda")
        out = torch.empty((m, n), dtype=torch.bfloat16, device="cuda")
        want = x.double() @ exact.T
        got = layers[-1](x, outputs=out, tuning_config=tuning).double()
        off = ((got - want).norm() / want.norm()).item()
        print(f"# {n}x{k}, {m} rows: relative distance {off:.2e}", flush=True)
        calls = max(4 if m >= 2048 else 12 if m >= 512 else 8 * MAX_COPIES, len(layers))
        us = time_graph(lambda i: layers[i % len(layers)](x, outputs=out, tuning_config=tuning), calls)
        print(f"{n},{k},{m},{us:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=lambda text: [int(word) for word in text.split(",")])
    parser.add_argument("shapes", nargs="+", type=lambda text: tuple(int(word) for word in text.split("x")))
    parser.add_argument("--prepare", action="store_true", help="only compile the kernels")
    args = parser.parse_args()
    torch.manual_seed(7)
    print("n,k,m,us")
    for n, k in args.shapes:
        if args.prepare:
            (layer,), _ = layers_of(n, k, 1)
            layer(torch.zeros((args.rows[0], k), dtype=torch.bfloat16, device="cuda"), tuning_config=tuning_of(layer, args.rows))
        else:
            measure(n, k, args.rows)


if __name__ == "__main__":
    sys.exit(main())
