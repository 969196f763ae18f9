#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What smoothing, a low-rank branch and a clamp would add to GPTQ with scales chosen by the error that remains, tried on
some matrices of a Llama in numpy before anything of it is written in C: docs/notes/smoothing.md has what came of it.

Inputs are those of the network as it is; second moments of some windows choose, others judge. Errors are squared errors of
the outputs, as shares of what GPTQ alone leaves.

usage: what_else.py NIBBLE MODEL.gguf TEXT [LAYER ...]      (needs numpy and gguf)
"""
import subprocess
import sys

import gguf
import numpy as np

WINDOW, TRAIN, TEST = 512, 10, 3
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7) for e in range(16) for m in range(8)][:127])
ALL = np.arange(1, 127)
EXACT = np.array([i for i in ALL if np.isin(E4M3[i] * E2M1, E4M3).all()])  # quantize --fp8-exact


def to_e2m1(x):
    a = np.abs(x)
    step = np.where(a < 2, .5, np.where(a < 4, 1, 2))
    return np.sign(x) * np.minimum(np.round(a / step) * step, 6)


# ---- the network ----

class Llama:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        get = lambda key: reader.fields[f"llama.{key}"].contents()
        self.heads, self.kv, self.eps = get("attention.head_count"), get("attention.head_count_kv"), get("attention.layer_norm_rms_epsilon")
        self.base = get("rope.freq_base")
        self.t = {t.name.removesuffix(".weight"): t for t in reader.tensors}

    def w(self, name):
        t = self.t[name]
        return gguf.dequantize(t.data, t.tensor_type).astype(np.float32)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w(name)

    def rope(self, x):
        """x [tokens, heads, dim], pairs (2i, 2i + 1) as GGUF files of Llamas have them."""
        n, _, d = x.shape
        angle = np.arange(n)[:, None] * self.base ** (-np.arange(0, d, 2) / d)
        c, s = np.cos(angle)[:, None].astype(np.float32), np.sin(angle)[:, None].astype(np.float32)
        out = np.empty_like(x)
        out[..., 0::2], out[..., 1::2] = x[..., 0::2] * c - x[..., 1::2] * s, x[..., 0::2] * s + x[..., 1::2] * c
        return out

    def attention(self, q, k, v):
        n, d = q.shape[0], q.shape[1] // self.heads
        q, k = self.rope(q.reshape(n, self.heads, d)), self.rope(k.reshape(n, self.kv, d))
        k, v = (np.repeat(a.reshape(n, self.kv, d), self.heads // self.kv, 1) for a in (k, v))
        s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
        s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(n, -1)

    def inputs(self, ids, wanted):
        """Site -> inputs [tokens, cols] of the layers wanted; ids [windows, tokens]."""
        out, x = {}, self.w("token_embd")[ids]
        for layer in range(max(wanted) + 1):
            b, w = f"blk.{layer}.", lambda name: self.w(f"blk.{layer}.{name}").T
            h = self.norm(x, b + "attn_norm")
            a = np.stack([self.attention(*(one @ w(f"attn_{n}") for n in "qkv")) for one in h])
            x = x + a @ w("attn_output")
            g = self.norm(x, b + "ffn_norm")
            gate = g @ w("ffn_gate")
            m = gate / (1 + np.exp(-gate)) * (g @ w("ffn_up"))
            if layer in wanted:
                out |= {(layer, "attn_q"): h, (layer, "attn_v"): h, (layer, "attn_output"): a, (layer, "ffn_up"): g,
                        (layer, "ffn_down"): m}
            x = x + m @ w("ffn_down")
        return out


# ---- quantizing ----

def moments(x):
    x = x.reshape(-1, x.shape[-1]).astype(np.float64)
    return x.T @ x / len(x)


def gptq(w, h, shrink=.2, codes=ALL):
    """NVFP4 of w [rows, cols] under scales of CODES, FP64: what src/quant/gptq.c does, before its descent."""
    rows, cols = w.shape
    w, out, diagonal = w.astype(np.float64).copy(), np.empty((rows, cols)), np.diag(h)
    damped = (1 - shrink) * h + np.diag(shrink * diagonal + 1e-3 * diagonal.mean())
    u = np.linalg.cholesky(np.linalg.inv(damped)).T
    scales = E4M3[codes]
    tensor_scale = np.abs(w).max() / 6 / scales[-1]
    for at in range(0, cols, 16):
        block, ub = w[:, at:at + 16], u[at:at + 16, at:at + 16]
        base = np.searchsorted(scales, np.minimum(np.abs(block).max(1) / 6 / tensor_scale, scales[-1]), "right") - 1
        least = np.full(rows, np.inf)
        kept, errors = np.empty((rows, 16)), np.empty((rows, 16))
        for offset in range(-8, 8):
            step = scales[np.clip(base + offset, 0, len(scales) - 1)] * tensor_scale
            v, q, e = block.copy(), np.empty((rows, 16)), np.empty((rows, 16))
            for j in range(16):
                q[:, j] = to_e2m1(v[:, j] / step) * step
                e[:, j] = (v[:, j] - q[:, j]) / ub[j, j]
                v[:, j + 1:] -= e[:, j:j + 1] * ub[j, j + 1:]
            loss = (e * e).sum(1)
            better = loss < least
            least[better], kept[better], errors[better] = loss[better], q[better], e[better]
        out[:, at:at + 16] = kept
        w[:, at + 16:] -= errors @ u[at:at + 16, at + 16:]
    return out


def activations(x):
    """NVFP4 of x [tokens, cols] by the largest magnitude of a block, under a scale of all."""
    blocks = x.reshape(-1, 16)
    tensor_scale = np.abs(x).max() / 6 / 448
    scale = E4M3[np.abs(E4M3 - (np.abs(blocks).max(1) / 6 / tensor_scale)[:, None]).argmin(1)] * tensor_scale
    return (to_e2m1(blocks / np.maximum(scale, 1e-30)[:, None]) * scale[:, None]).reshape(x.shape)


def loss(w, made, h):
    d = w - made
    return float(np.einsum("ij,jk,ik->", d, h, d, optimize=True))


def smoothed(w, h, alpha, codes=ALL):
    """Codes of w diag(s), to be read by x / s: s = E[x^2]^(alpha / 2), which a norm before it can hold."""
    s = np.diag(h) ** (alpha / 2)
    s /= np.exp(np.log(s).mean())
    return s, gptq(w * s, h / np.outer(s, s), codes=codes) / s


def low_rank(w, h, rank):
    """BF16 branch of the largest directions that the inputs see, the rest by GPTQ."""
    root = np.linalg.cholesky(h + 1e-3 * np.diag(h).mean() * np.eye(len(h)))
    a, s, b = np.linalg.svd(w @ root, full_matrices=False)
    branch = (a[:, :rank] * s[:rank]) @ np.linalg.solve(root.T, b[:rank].T).T
    return branch + gptq(w - branch, h)


def four_bit_inputs(w, made, x, s, clamp):
    """Output error with NVFP4 inputs x / s; values past the quantile CLAMP stay apart, exact."""
    x = x.reshape(-1, x.shape[-1]) / s
    bound = np.quantile(np.abs(x), clamp) if clamp < 1 else np.inf
    inner = np.clip(x, -bound, bound)
    out = activations(inner) + (x - inner)
    return float(((x @ (w * s).T - out @ (made * s).T) ** 2).mean())


def asked():
    """The network of the command line, and what its matrices read: {(layer, name): x}."""
    nibble, model, text, *layers = sys.argv[1:]
    wanted = [int(n) for n in layers] or [3, 12]
    n = WINDOW * (TRAIN + TEST)
    ids = subprocess.run([nibble, "tokenize", model, "--ids", "--text", text], check=True, capture_output=True, text=True).stdout
    ids = np.array(ids.split()[:n], int).reshape(-1, WINDOW)
    net = Llama(model)
    return net, net.inputs(ids, wanted)


def main():
    net, sites = asked()
    table = {}
    for (layer, name), x in sites.items():
        w = net.w(f"blk.{layer}.{name}").astype(np.float64)
        h, judge, test = moments(x[:TRAIN]), moments(x[TRAIN:]), x[TRAIN:].astype(np.float64)
        made, one = gptq(w, h), np.ones(w.shape[1])
        base, base4 = loss(w, made, judge), four_bit_inputs(w, made, test, one, 1)
        row = table.setdefault(name, {})
        note = lambda what, value: row.setdefault(what, []).append(value)
        for alpha in (.25, .5, .75):
            s, other = smoothed(w, h, alpha)
            note(f"smoothing {alpha}", loss(w, other, judge) / base)
            note(f"4-bit inputs, smoothing {alpha}", four_bit_inputs(w, other, test, s, 1) / base4)
        note("scales that FP8 holds with every code", loss(w, gptq(w, h, codes=EXACT), judge) / base)
        note("these, smoothing 0.5", loss(w, smoothed(w, h, .5, EXACT)[1], judge) / base)
        for rank in (8, 32):
            bits = 16 * rank * sum(w.shape) / w.size
            note(f"rank {rank}", loss(w, low_rank(w, h, rank), judge) / base)
            note(f"rank {rank}: bits a weight", bits)
        for clamp in (.9999, .999):
            note(f"4-bit inputs, clamp at {clamp}", four_bit_inputs(w, made, test, one, clamp) / base4)
        print(f"layer {layer} {name}", {k: round(v[-1], 3) for k, v in row.items()}, file=sys.stderr, flush=True)
    names = list(table)
    print("| | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for what in table[names[0]]:
        print(f"| {what} | " + " | ".join(f"{np.exp(np.log(table[name][what]).mean()):.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
