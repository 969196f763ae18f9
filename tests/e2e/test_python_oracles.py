# SPDX-License-Identifier: Apache-2.0
"""The Python package beside those who defined the formats: ModelOpt's and compressed-tensors' own quantizers, bit for bit, and
PyTorch's FP8 product on a GPU. Each skips where its package is missing (pip install nvidia-modelopt compressed-tensors).
tests/golden/quant holds what they gave for the library's own quantizers."""
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
torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install torch")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def values(dtype, n=192, k=1152, seed=3):
    """Bell-shaped, with blocks of zeros, of one number, with an outlier, and very small ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.036, (n * k // 16, 16)).astype(np.float32)
    kind = rng.integers(0, 16, n * k // 16)
    x[kind == 0] = 0
    x[kind == 1, 1:] = 0
    x[kind == 2, 5] *= 1024
    x[kind == 3] *= np.float32(2.0) ** -rng.integers(1, 30, (np.count_nonzero(kind == 3), 1)).astype(np.float32)
    return torch.from_numpy(x.reshape(n, k)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_as_modelopt(dtype):
    modelopt = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor",
                                   reason="ModelOpt is missing: pip install nvidia-modelopt")
    x = values(dtype)
    q, scales, scale = modelopt.NVFP4QTensor.quantize(x.clone(), 16)
    want = (q._quantized_data.numpy(), scales.view(torch.uint8).numpy(), np.float32(scale.item()))
    got = nibble.fp4_quantize(x.float().numpy())
    assert np.array_equal(got.codes, want[0]) and np.array_equal(got.scales, want[1]) and got.tensor_scale == want[2]
    if torch.cuda.is_available():
        assert torch.equal(nibble.fp4_quantize(x.cuda()).dequantize().cpu(), torch.from_numpy(got.dequantize()))


def test_weights_of_compressed_tensors():
    """Its quantizer's output, read by nibble, is what its own reader makes of it."""
    helpers = pytest.importorskip("compressed_tensors.compressors.nvfp4.helpers",
                                  reason="compressed-tensors is missing: pip install compressed-tensors")
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

    x = values(torch.float32)
    n, k = x.shape
    low, high = torch.aminmax(x.reshape(n, -1, 16), dim=-1)
    divisor = generate_gparam(low.min(), high.max())
    arguments = preset_name_to_scheme("NVFP4A16", ["Linear"]).weights
    scales = calculate_qparams(low, high, arguments, global_scale=divisor)[0].to(torch.float8_e4m3fn)
    codes = helpers.quantize_and_pack_fp4(x, scales.float(), global_scale=divisor, group_size=16)
    plain = helpers.unpack_fp4_from_uint8(codes, n, k, dtype=torch.float32)
    want = plain.reshape(n, -1, 16) * (scales.float() / divisor)[..., None]
    got = nibble.FP4Weight(n, k, codes=codes.numpy(), scales=scales.view(torch.uint8).numpy(),
                           tensor_scale=np.float32(1) / np.float32(divisor.item())).dequantize()
    assert np.allclose(got, want.reshape(n, k).numpy(), rtol=3e-7, atol=0)  # one rounding more or less
    if torch.cuda.is_available():
        tensors = {"weight_packed": codes, "weight_scale": scales, "weight_global_scale": divisor.reshape(1)}
        layer = nibble.Linear.from_checkpoint(tensors, mode="w4a16")
        assert torch.allclose(layer(torch.eye(k, device="cuda")).T.cpu(), torch.from_numpy(got), rtol=1e-6, atol=0)


@on_gpu
def test_w4a8_as_scaled_mm():
    """fp8-exact weights times their block scales, an eighth of them, are E4M3: the folded product against PyTorch's on the same
    numbers."""
    n, k, m = 640, 1152, 200
    cache = nibble.FP4WeightCache(values(torch.bfloat16, n, k).cuda(), method="fp8-exact", mode="w4a8")
    unit = cache.weight.unpack()[2] * 8
    w8 = (cache.weight.dequantize() / unit).to(torch.float8_e4m3fn)
    assert torch.allclose(w8.float() * unit, cache.weight.dequantize(), rtol=3e-7, atol=0)
    x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    scale = x.float().abs().amax(dim=1, keepdim=True) / 448
    x8 = (x.float() / scale).to(torch.float8_e4m3fn)
    try:
        want = torch._scaled_mm(x8, w8.t(), scale_a=scale, scale_b=unit.expand(1, n).contiguous(), out_dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"PyTorch has no FP8 product by row here: {error}")
    got = cache(x)
    assert ((got.float() - want.float()).norm() / want.float().norm()).item() < 1e-2
