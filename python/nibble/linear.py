# SPDX-License-Identifier: Apache-2.0
"""A linear layer with an NVFP4 weight."""
import torch

from . import fp4, library


class Linear(torch.nn.Module):
    """y = x W^T + bias. The weight is a buffer `packed`; state dicts of ModelOpt and compressed-tensors become one through
    from_checkpoint. Safe under torch.compile: the product is the custom op nibble::linear."""

    def __init__(self, in_features, out_features, weight, bias=None, mode="auto"):
        super().__init__()
        fp4._check_mode(mode)
        self.in_features, self.out_features, self.mode = in_features, out_features, mode
        self.register_buffer("packed", weight.packed)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x):
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return torch.ops.nibble.linear(x, self.packed, self.out_features, self.in_features, bias, self.mode)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, NVFP4, mode={self.mode}"

    @classmethod
    def from_float(cls, linear, method="rtn", mode="auto"):
        """Quantizes a torch.nn.Linear on a GPU."""
        weight = fp4.fp4_quantize(linear.weight, method)
        return cls(linear.in_features, linear.out_features, weight, linear.bias, mode)

    @classmethod
    def from_checkpoint(cls, tensors, prefix="", device="cuda", mode="auto"):
        """Tensors of one layer, as the file has them. ModelOpt: weight, weight_scale, weight_scale_2; compressed-tensors:
        weight_packed, weight_scale, weight_global_scale; bias in both."""
        def get(name):
            tensor = tensors.get(prefix + name)
            return None if tensor is None else tensor.to(device).contiguous()

        codes = get("weight_packed")
        divides = codes is not None
        codes = codes if divides else get("weight")
        scale = get("weight_global_scale" if divides else "weight_scale_2")
        scales = get("weight_scale")
        if codes is None or scales is None or scale is None or codes.dtype != torch.uint8:
            raise fp4.NibbleError(f"layer '{prefix}': expected weight (U8), weight_scale, weight_scale_2 or weight_packed, "
                                  "weight_scale, weight_global_scale")
        n, k = codes.shape[0], codes.shape[1] * 2
        weight = fp4.pack(library.FROM_NVFP4, codes, n, k, scales, scale.float().reshape(1), divides)
        return cls(k, n, weight, get("bias"), mode)
