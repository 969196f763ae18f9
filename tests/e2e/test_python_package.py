# SPDX-License-Identifier: Apache-2.0
"""The Python package: its NumPy path against the library's own codec, its words; what needs a GPU and torch skips."""
import os
import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if "NIBBLE_INSTALLED" not in os.environ:  # else the package that is installed, with the library in it
    os.environ.setdefault("NIBBLE_LIBRARY", str(ROOT / "build" / "release" / "libnibble.so"))
    sys.path.insert(0, str(ROOT / "python"))
nibble = pytest.importorskip("nibble")
torch = None
try:
    import torch
except ImportError:
    pass
on_gpu = pytest.mark.skipif(torch is None or not torch.cuda.is_available(), reason="needs PyTorch and a GPU")


def values(n, k, seed=1):
    x = np.random.default_rng(seed).normal(0, 0.02, (n, k)).astype(np.float32)
    x[0] = 0
    x[1, :16] = 0
    x[2, 5] = 3
    return x


def test_numpy_quantizes_as_the_package_of_the_field():
    """A golden block: codes and scales that ModelOpt writes for these values (see docs/formats.md)."""
    x = np.zeros((16, 16), np.float32)
    x[0] = [0, .25, .5, .75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, -6]
    w = nibble.fp4_quantize(x)
    assert w.scales[0, 0] == 0x7e and w.tensor_scale == np.float32(6 / 2688)
    got = [w.codes[0, i // 2] >> 4 * (i & 1) & 15 for i in range(16)]
    assert got == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 15]


@pytest.mark.parametrize("x, words", [(np.ones((16, 16), np.int32), "a weight of int32"), (np.full((16, 16), np.nan), "not finite"),
                                      (np.full((16, 16), 1e39), "not finite")])
def test_numpy_refuses(x, words):
    with np.errstate(over="ignore"), pytest.raises(nibble.NibbleError, match=words):
        nibble.fp4_quantize(x)


def test_numpy_product():
    w, x = values(48, 176), np.random.default_rng(2).normal(size=(5, 176)).astype(np.float32)
    cache = nibble.FP4WeightCache(w)
    y = nibble.fp4_cached_linear(x, cache, bias=np.ones(48, np.float32))
    exact = x @ w.T + 1
    assert y.dtype == np.float32
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact - 1) < 0.12  # what NVFP4 loses
    assert np.array_equal(nibble.fp4_matmul(x, w, alpha=2.0), 2 * (x @ cache.weight.dequantize().T))


def test_words():
    with pytest.raises(nibble.NibbleError, match="multiples of 16"):
        nibble.fp4_quantize(np.zeros((15, 16), np.float32))
    with pytest.raises(nibble.NibbleError, match="needs a GPU"):
        nibble.fp4_quantize(np.zeros((16, 16), np.float32), method="sweep")
    with pytest.raises(nibble.NibbleError, match=r"expected \[\.\.\., 32\]"):
        nibble.fp4_linear(np.zeros((2, 16), np.float32), np.zeros((16, 32), np.float32))


def test_a_mode_is_never_swapped():
    x, w = np.zeros((2, 32), np.float32), np.zeros((16, 32), np.float32)
    for call in (lambda: nibble.fp4_linear(x, w, mode="w4a9"), lambda: nibble.fp4_matmul(x, w, mode="w4a9"),
                 lambda: nibble.FP4WeightCache(w, mode="w4a9"), lambda: nibble.explain(64, 4096, 4096, "w4a9", 90)):
        with pytest.raises(ValueError, match="mode 'w4a9': there are auto, w4a16, w4a8, w4a4"):
            call()
    with pytest.raises(nibble.NibbleError, match="needs a GPU"):
        nibble.fp4_linear(x, w, mode="w4a4")


def test_shapes_are_checked():
    x, w = np.zeros((2, 32), np.float32), np.zeros((16, 32), np.float32)
    with pytest.raises(nibble.NibbleError, match=r"bias of shape \(3,\): expected \(16,\)"):
        nibble.fp4_linear(x, w, np.zeros(3))
    with pytest.raises(nibble.NibbleError, match=r"c of shape \(16,\): expected \(2, 16\)"):
        nibble.fp4_matmul(x, w, np.zeros(16), beta=1.0)
    with pytest.raises(TypeError, match="expected an FP4WeightCache"):
        nibble.fp4_cached_linear(x, w)


def experts_case(counts):
    """Weights [48, 176], a bias each, offsets, and x with two rows more than the experts have."""
    weights = [values(48, 176, seed=e) for e in range(len(counts))]
    rng = np.random.default_rng(3)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return weights, rng.normal(size=(len(counts), 48)).astype(np.float32), offsets, rng.normal(size=(offsets[-1] + 2, 176)).astype(np.float32)


def test_experts():
    counts = [1, 0, 3, 9]
    weights, bias, offsets, x = experts_case(counts)
    experts = [nibble.fp4_quantize(w) for w in weights]
    y = nibble.FP4Experts(experts, bias)(x, offsets)
    for row, e in enumerate(np.repeat(range(4), counts)):
        assert np.allclose(y[row], experts[e].dequantize() @ x[row] + bias[e], atol=1e-5)
    assert y.shape == (15, 48) and not y[13:].any()
    assert np.allclose(nibble.FP4Experts(experts)(x, offsets)[0], y[0] - bias[0], atol=1e-5)
    with pytest.raises(nibble.NibbleError, match=r"bias of shape \(4, 3\): expected \(4, 48\)"):
        nibble.FP4Experts(experts, np.zeros((4, 3)))
    with pytest.raises(nibble.NibbleError, match=r"offsets of shape \(4,\): expected \(5,\)"):
        nibble.FP4Experts(experts)(x, offsets[1:])
    with pytest.raises(nibble.NibbleError, match="no kernel to explain"):
        nibble.FP4Experts(experts).explain(4)
    with pytest.raises(nibble.NibbleError, match="experts of different shapes"):
        nibble.FP4Experts([*experts, nibble.fp4_quantize(values(64, 176))])


def test_explain_needs_no_gpu():
    assert "w4a16" in nibble.explain(1, 4096, 4096, arch=90)
    assert "m16n8k16 E4M3, block scales in FP32" in nibble.explain(64, 4096, 4096, mode="w4a8-exact", arch=89)
    with pytest.raises(nibble.NibbleError, match="has no w4a4"):
        nibble.explain(1, 4096, 4096, mode="w4a4", arch=80)
    if torch is None or not torch.cuda.is_available():
        with pytest.raises(nibble.NibbleError):
            nibble.explain(64, 24576, 4096)


@on_gpu
def test_shapes_are_checked_on_a_gpu():
    x, w = torch.zeros(2, 32, device="cuda"), torch.zeros(16, 32, device="cuda")
    for bias in (torch.zeros(3, device="cuda"), torch.zeros(16)):
        with pytest.raises(nibble.NibbleError, match="bias"):
            nibble.fp4_linear(x, w, bias)


@on_gpu
def test_gpu_equals_numpy():
    x = values(640, 1152)
    cpu, gpu = nibble.fp4_quantize(x), nibble.fp4_quantize(torch.from_numpy(x).cuda())
    assert np.array_equal(cpu.dequantize(), gpu.dequantize().cpu().numpy())


@on_gpu
@pytest.mark.parametrize("counts", [[1, 0, 3, 9], [2] * 40, [1] + [0] * 120, [70, 0, 200]])
def test_experts_on_a_gpu(counts):
    weights, bias, offsets, x = experts_case(counts)
    x, bias = torch.from_numpy(x).cuda().bfloat16(), torch.from_numpy(bias).cuda().bfloat16()
    experts = [nibble.fp4_quantize(torch.from_numpy(w).cuda()) for w in weights]
    there = torch.from_numpy(offsets).cuda()
    for b in (bias, None):
        y = nibble.FP4Experts(experts, b)(x, there)
        truth = torch.zeros(y.shape, dtype=torch.float64, device="cuda")
        for e, weight in enumerate(experts):
            rows = slice(offsets[e], offsets[e + 1])
            truth[rows] = x[rows].double() @ weight.dequantize().double().T + (0 if b is None else b[e].double())
        assert ((y.double() - truth).norm() / truth.norm()).item() < 4e-3 and not y[offsets[-1]:].any()
    assert f"{len(counts)} experts [48, 176] x 64 tokens" in nibble.FP4Experts(experts).explain(64)
    with pytest.raises(nibble.NibbleError, match="expected contiguous tensors of bfloat16, int32"):
        nibble.FP4Experts(experts, bias)(x, there.long())


@on_gpu
@pytest.mark.parametrize("mode,bound", [("w4a16", 4e-3), ("w4a8", 4e-2), ("auto", 4e-2)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_linear(mode, bound, dtype):
    w = torch.from_numpy(values(640, 1152)).cuda()
    for m in (0, 1, 3, 17, 200):
        x = torch.randn(m, 1152, device="cuda").to(getattr(torch, dtype))
        bias = torch.randn(640, device="cuda").to(x.dtype)
        cache = nibble.FP4WeightCache(w, bias, mode=mode)
        y = cache(x)
        truth = x.double() @ cache.weight.dequantize().double().T + bias.double()
        assert y.shape == (m, 640) and y.dtype == x.dtype
        assert m == 0 or ((y.double() - truth).norm() / truth.norm()).item() < bound


@on_gpu
def test_module_compiles_loads_and_is_captured():
    linear = torch.nn.Linear(1152, 640, device="cuda", dtype=torch.bfloat16)
    layer = nibble.Linear.from_float(linear)
    x = torch.randn(4, 9, 1152, device="cuda", dtype=torch.bfloat16)
    y = layer(x)
    assert y.shape == (4, 9, 640)
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), y)
    state = layer.state_dict()
    assert set(state) == {"packed", "bias"}
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        layer(x)
    stream.synchronize()
    with torch.cuda.graph(graph):
        z = layer(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(z, y)


@on_gpu
def test_checkpoint_layers():
    cpu = nibble.fp4_quantize(values(64, 256))
    truth = torch.from_numpy(cpu.dequantize())
    scales = torch.from_numpy(cpu.scales).view(torch.float8_e4m3fn)
    codes, scale = torch.from_numpy(cpu.codes), torch.tensor(float(cpu.tensor_scale))
    modelopt = {"a.weight": codes, "a.weight_scale": scales, "a.weight_scale_2": scale}
    packed = {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": (1 / scale).reshape(1)}
    eye = torch.eye(256, device="cuda")
    for tensors, prefix in ((modelopt, "a."), (packed, "")):
        layer = nibble.Linear.from_checkpoint(tensors, prefix, mode="w4a16")
        assert torch.allclose(layer(eye).T.cpu(), truth, rtol=1e-6, atol=0)
