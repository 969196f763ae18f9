# SPDX-License-Identifier: Apache-2.0
"""Quantize once, multiply often. Arrays of NumPy stay on the CPU, tensors of PyTorch on their GPU."""
import ctypes

import numpy as np

from . import codec, library
from .library import NibbleError

try:
    import torch
except ImportError:
    torch = None


def _is_tensor(x):
    return torch is not None and isinstance(x, torch.Tensor)


def _type_of(x):
    types = {torch.bfloat16: library.BF16, torch.float16: library.F16, torch.float32: library.F32}
    if x.dtype not in types:
        raise NibbleError(f"a tensor of {x.dtype}: expected bfloat16, float16 or float32")
    return types[x.dtype]


def _check_mode(mode):
    if mode not in library.MODES:
        raise ValueError(f"mode '{mode}': there are {', '.join(library.MODES)}")


def _check_shape(name, array, shape):
    if array is not None and tuple(array.shape) != shape:
        raise NibbleError(f"{name} of shape {tuple(array.shape)}: expected {shape}")


def _stream(device):
    return ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)


class FP4Weight:
    """A weight [n, k] in NVFP4: `packed` (uint8, on the GPU), or codes, scales and tensor_scale (NumPy)."""

    def __init__(self, n, k, packed=None, codes=None, scales=None, tensor_scale=None):
        self.n, self.k, self.packed = n, k, packed
        self.codes, self.scales, self.tensor_scale = codes, scales, tensor_scale

    def unpack(self):
        """codes U8 [n, k/2] (element 2i in the low nibble), scales (E4M3, as U8) [n, k/16], tensor_scale FP32 [1]."""
        if self.packed is None:
            return self.codes, self.scales, np.float32([self.tensor_scale])
        device = self.packed.device
        codes = torch.empty(self.n, self.k // 2, dtype=torch.uint8, device=device)
        scales = torch.empty(self.n, self.k // 16, dtype=torch.uint8, device=device)
        scale = torch.empty(1, dtype=torch.float32, device=device)
        with torch.cuda.device(device), library.Weight(device.index, self.n, self.k, self.packed.data_ptr()) as w:
            library.call("nib_gemm_weight_unpack", library.context(device.index), w, ctypes.c_void_p(codes.data_ptr()),
                         ctypes.c_void_p(scales.data_ptr()), ctypes.c_void_p(scale.data_ptr()), _stream(device))
        return codes, scales, scale

    def dequantize(self):
        """FP32 [n, k], exact."""
        codes, scales, scale = self.unpack()
        if self.packed is None:
            return codec.decode(codes, scales, scale[0])
        elements = torch.stack([codes & 15, codes >> 4], -1).reshape(self.n, self.k).long()
        table = torch.from_numpy(codec.E2M1).to(codes.device)
        return (table[elements].reshape(self.n, -1, 16) * scales.view(torch.float8_e4m3fn).float()[..., None] * scale
                ).reshape(self.n, self.k)


def pack(form, values, n, k, scales=None, tensor_scale=None, divides=False, method="rtn"):
    """Device tensors in one of nibble_gemm.h's formats -> FP4Weight."""
    device = values.device
    if device.type != "cuda":
        raise NibbleError(f"a tensor on {device}: expected one on a GPU (or a NumPy array)")
    packed = torch.empty(library.library().nib_gemm_packed_bytes(n, k), dtype=torch.uint8, device=device)
    source = library.Source(form, library.METHODS[method], n, k, values.data_ptr(),
                            None if scales is None else scales.data_ptr(),
                            None if tensor_scale is None else tensor_scale.data_ptr(), divides)
    with torch.cuda.device(device), library.Weight(device.index, n, k, packed.data_ptr()) as w:
        library.call("nib_gemm_weight_pack", library.context(device.index), w, ctypes.byref(source), _stream(device))
    return FP4Weight(n, k, packed=packed)


def fp4_quantize(weight, method="rtn"):
    """weight [n, k], sizes multiples of 16 -> FP4Weight. method: rtn, 4over6, sweep, fp8-exact (NumPy: rtn)."""
    if len(weight.shape) != 2 or weight.shape[0] % 16 or weight.shape[1] % 16:
        raise NibbleError(f"a weight of shape {tuple(weight.shape)}: expected [n, k], multiples of 16")
    if method not in library.METHODS:
        raise NibbleError(f"method '{method}': there are {', '.join(library.METHODS)}")
    n, k = weight.shape
    if not _is_tensor(weight):
        if method != "rtn":
            raise NibbleError(f"method '{method}' needs a GPU; NumPy arrays are quantized by rtn")
        if not codec.is_float(weight):
            raise NibbleError(f"a weight of {weight.dtype}: expected float32, float16, float64 or bfloat16")
        if not np.isfinite(np.asarray(weight, np.float32)).all():
            raise NibbleError("a weight that is not finite in float32")
        codes, scales, scale = codec.encode(weight)
        return FP4Weight(n, k, codes=codes, scales=scales, tensor_scale=scale)
    return pack(library.FROM_BF16 + _type_of(weight), weight.detach().contiguous(), n, k, method=method)


def product(x, packed, n, k, bias=None, c=None, alpha=1.0, beta=0.0, mode="auto"):
    """x [m, k] on a GPU times a packed weight -> [m, n] of x's type."""
    _check_mode(mode)
    if x.shape[-1] != k or packed.device != x.device:
        raise NibbleError(f"x {tuple(x.shape)} on {x.device}: expected [m, {k}] on {packed.device}")
    device, m = x.device, x.shape[0]
    if x.stride(-1) != 1 or x.stride(0) % 8 or x.data_ptr() % 16:
        x = x.contiguous()
    d = torch.empty(m, n, dtype=x.dtype, device=device)
    _check_shape("bias", bias, (n,))
    _check_shape("c", c, (m, n))
    for extra in (bias, c):
        if extra is not None and (extra.dtype != x.dtype or extra.device != device or not extra.is_contiguous()):
            raise NibbleError(f"bias and c: expected contiguous tensors of {x.dtype} on {device}")
    with torch.cuda.device(device), library.Weight(device.index, n, k, packed.data_ptr()) as w:
        p = library.Product(w, library.MODES[mode], m, x.data_ptr(), _type_of(x), x.stride(0) if m > 1 else k, None, None,
                            d.data_ptr(), _type_of(x), n, None if c is None else c.data_ptr(),
                            None if bias is None else bias.data_ptr(), alpha, beta)
        g = library.context(device.index)
        size = library.library().nib_gemm_workspace_bytes(g, ctypes.byref(p))
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        library.call("nib_gemm_matmul", g, ctypes.byref(p), ctypes.c_void_p(workspace.data_ptr()), ctypes.c_size_t(size),
                     _stream(device))
    return d


if torch is not None:
    @torch.library.custom_op("nibble::linear", mutates_args=())
    def _linear_op(x: torch.Tensor, packed: torch.Tensor, n: int, k: int, bias: torch.Tensor | None,
                   mode: str) -> torch.Tensor:
        return product(x.reshape(-1, k), packed, n, k, bias, mode=mode).reshape(*x.shape[:-1], n)

    @_linear_op.register_fake
    def _(x, packed, n, k, bias, mode):
        return x.new_empty(*x.shape[:-1], n)


def _product_numpy(x, weight, mode):
    """In FP32: what w4a16 is with exact activations. The other modes are the GPU's."""
    _check_mode(mode)
    if mode not in ("auto", "w4a16"):
        raise NibbleError(f"mode '{mode}' needs a GPU; NumPy arrays are computed by w4a16")
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[-1] != weight.k:
        raise NibbleError(f"x {x.shape}: expected [..., {weight.k}]")
    return x.astype(np.float32) @ weight.dequantize().T


def fp4_cached_linear(x, cache, bias=None, mode="auto"):
    """x [..., k] times the cached weight [n, k], transposed, plus bias [n]. mode: auto, w4a16, w4a8, w4a8-exact, w4a4
    (NumPy: auto, w4a16)."""
    weight = getattr(cache, "weight", cache)
    if not isinstance(weight, FP4Weight):
        raise TypeError(f"a {type(cache).__name__}: expected an FP4WeightCache or an FP4Weight (fp4_linear takes an array)")
    if weight.packed is None:
        bias = None if bias is None else np.asarray(bias)
        _check_shape("bias", bias, (weight.n,))
        y = _product_numpy(x, weight, mode)
        return (y if bias is None else y + bias).astype(np.asarray(x).dtype)
    return _linear_op(x, weight.packed, weight.n, weight.k, bias, mode)


def fp4_linear(x, weight, bias=None, mode="auto"):
    """The same with a weight that is quantized in every call."""
    return fp4_cached_linear(x, fp4_quantize(weight), bias, mode)


def fp4_matmul(a, b, c=None, alpha=1.0, beta=0.0, mode="auto"):
    """alpha * a b^T + beta * c: a [m, k], b [n, k], c [m, n]. b is quantized in every call."""
    weight = fp4_quantize(b)
    if weight.packed is None:
        c = None if c is None else np.asarray(c)
        _check_shape("c", c, (*np.shape(a)[:-1], weight.n))
        d = alpha * _product_numpy(a, weight, mode)
        return (d if c is None else d + beta * c).astype(np.asarray(a).dtype)
    if alpha == 0.0:
        raise NibbleError("alpha 0: the product would not count")
    return product(a, weight.packed, weight.n, weight.k, None, c, alpha, beta, mode)


class FP4WeightCache:
    """A weight quantized once."""

    def __init__(self, weight, bias=None, method="rtn", mode="auto"):
        _check_mode(mode)
        self.weight, self.bias, self.mode = fp4_quantize(weight, method), bias, mode

    def forward(self, x, sync=False):
        y = fp4_cached_linear(x, self.weight, self.bias, self.mode)
        if sync:
            globals()["sync"]()
        return y

    __call__ = forward


class FP4Experts:
    """Weights of experts, all [n, k], and a bias [experts, n] or None: FP4Weights on one GPU, or of NumPy."""

    def __init__(self, weights, bias=None):
        self.weights = list(weights)
        if not self.weights or len({(w.n, w.k, w.packed is None or w.packed.device) for w in self.weights}) != 1:
            raise NibbleError("experts of different shapes or places: expected one or more of one shape, all on one GPU or of NumPy")
        self.n, self.k = self.weights[0].n, self.weights[0].k
        self.bias = np.asarray(bias) if bias is not None and self.weights[0].packed is None else bias
        _check_shape("bias", self.bias, (len(self.weights), self.n))
        if self.weights[0].packed is not None:
            self.pointers = torch.tensor([w.packed.data_ptr() for w in self.weights], device=self.weights[0].packed.device)

    def __call__(self, x, offsets):
        """x [m, k], BF16 on a GPU, of which rows offsets[e] .. offsets[e + 1] (int32 [experts + 1], beside x) are expert e's ->
        [m, n], 0 in rows past the last offset. Exact (w4a16). On a GPU the offsets are read there alone, and there is no gradient."""
        experts = len(self.weights)
        _check_shape("offsets", offsets, (experts + 1,))
        _check_shape("x", x, (x.shape[0] if x.ndim else 0, self.k))
        if self.weights[0].packed is not None:
            return self._on_gpu(x, offsets)
        steps = np.asarray(offsets)
        if steps[0] != 0 or (np.diff(steps) < 0).any() or steps[-1] > len(x):
            raise NibbleError(f"offsets {steps.tolist()}: expected numbers that begin with 0, never fall and end at {len(x)} at most")
        y = np.zeros((len(x), self.n), np.float32)
        for e, weight in enumerate(self.weights):
            rows = slice(offsets[e], offsets[e + 1])
            y[rows] = _product_numpy(x[rows], weight, "w4a16") + (0 if self.bias is None else self.bias[e])
        return y.astype(np.asarray(x).dtype)

    def explain(self, m):
        """Which kernel multiplies m rows of all experts on this GPU, and why."""
        if self.weights[0].packed is None:
            raise NibbleError("experts of NumPy arrays: there is no kernel to explain")
        text, device = ctypes.create_string_buffer(1024), self.pointers.device
        with torch.cuda.device(device), library.Weight(device.index, self.n, self.k, self.weights[0].packed.data_ptr()) as w:
            p = library.Group(library.Product(weight=w, m=m), len(self.weights))
            library.call("nib_gemm_grouped_explain", library.context(device.index), ctypes.byref(p), text, ctypes.c_size_t(len(text)))
        return text.value.decode()

    def _on_gpu(self, x, offsets):
        device, m = self.pointers.device, x.shape[0]
        wanted = [(x, torch.bfloat16), (offsets, torch.int32)] + ([] if self.bias is None else [(self.bias, x.dtype)])
        if any(t.device != device or t.dtype != dtype or not t.is_contiguous() for t, dtype in wanted):
            raise NibbleError(f"x, offsets and bias: expected contiguous tensors of bfloat16, int32 and bfloat16 on {device}")
        if torch.is_grad_enabled() and x.requires_grad:
            raise NibbleError("x requires a gradient, which experts do not give: call them under torch.no_grad()")
        d = torch.zeros(m, self.n, dtype=x.dtype, device=device)
        with torch.cuda.device(device), library.Weight(device.index, self.n, self.k, self.weights[0].packed.data_ptr()) as w:
            bias = None if self.bias is None else self.bias.data_ptr()
            p = library.Group(library.Product(weight=w, m=m, a=x.data_ptr(), a_type=library.BF16, d=d.data_ptr(), bias=bias),
                              len(self.weights), offsets.data_ptr(), self.pointers.data_ptr())
            g = library.context(device.index)
            size = library.library().nib_gemm_grouped_workspace_bytes(g, ctypes.byref(p))
            workspace = torch.empty(size, dtype=torch.uint8, device=device)
            library.call("nib_gemm_grouped", g, ctypes.byref(p), ctypes.c_void_p(workspace.data_ptr()), ctypes.c_size_t(size),
                         _stream(device))
        return d


def prealloc(max_m, max_n, max_k, device=None):
    """Lets PyTorch's allocator hold the memory that a product of this size takes, so that the first one is not slow."""
    x = torch.zeros(max_m, max_k, dtype=torch.bfloat16, device=device or "cuda")
    packed = torch.zeros(library.library().nib_gemm_packed_bytes(max_n, max_k), dtype=torch.uint8, device=x.device)
    product(x, packed, max_n, max_k)


def sync():
    """Waits for the GPU."""
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def cleanup():
    """Closes this thread's contexts. Weights stay valid."""
    library.close_contexts()


def explain(m, n, k, mode="auto", arch=0):
    """Which kernel runs, in which precision, and why. arch: a compute capability such as 90; 0: the current GPU."""
    _check_mode(mode)
    text = ctypes.create_string_buffer(1024)
    device = 0 if torch is None or not torch.cuda.is_available() else torch.cuda.current_device()
    g = None if arch else library.context(device)
    library.call("nib_gemm_explain", g, ctypes.c_int(arch), ctypes.c_int(library.MODES[mode]), ctypes.c_size_t(m),
                 ctypes.c_size_t(n), ctypes.c_size_t(k), text, ctypes.c_size_t(len(text)))
    return text.value.decode()
