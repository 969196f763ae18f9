#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What would be left to gain of one matrix's codes and scales after GPTQ and its descent by blocks, in numpy: block scales solved for
all blocks of a row together, codes fixed, and learned rounding (AdaRound, Nagel et al. 2020); docs/notes/smoothing.md has what came
of it. Squared error of the outputs of 128 rows of some matrices of a Llama, on the inputs that chose and on others.

usage: rounding.py NIBBLE MODEL.gguf TEXT [LAYER ...]      (needs numpy and gguf)
"""
import sys

import numpy as np

from what_else import E2M1, E4M3, TRAIN, asked, gptq, moments, to_e2m1

ROWS, PASSES, LEARNED = 128, 2, 400
VALUES = np.unique(np.concatenate([E2M1, -E2M1]))


class Choice:
    """q [rows, cols] E2M1 values, s [rows, blocks] E4M3 scales, times one tensor scale."""

    def __init__(self, w, made):
        self.tensor = np.abs(w).max() / 6 / 448
        rows, cols = w.shape
        self.s = np.empty((rows, cols // 16))
        self.q = np.empty((rows, cols))
        for b in range(cols // 16):  # the one scale that makes all of them E2M1 values; the smallest
            v = made[:, 16 * b:16 * b + 16] / self.tensor
            for r in range(rows):
                for s in E4M3[1:]:
                    q = v[r] / s
                    if (np.abs(q) <= 6.001).all() and np.abs(q - to_e2m1(q)).max() < 1e-6:
                        self.s[r, b], self.q[r, 16 * b:16 * b + 16] = s, to_e2m1(q)
                        break
                else:
                    raise SystemExit("no scale")

    def values(self):
        return self.q * np.repeat(self.s, 16, 1) * self.tensor

    def copy(self):
        other = Choice.__new__(Choice)
        other.tensor, other.s, other.q = self.tensor, self.s.copy(), self.q.copy()
        return other


def lost(w, choice, h):
    d = w - choice.values()
    return np.einsum("ij,jk,ik->i", d, h, d, optimize=True)


def descend(w, c, h, passes):
    """src/quant/refine.c: each block chosen anew with all others as they are."""
    d = w - c.values()
    g = d @ h
    blocks = c.s.shape[1]
    for _ in range(passes):
        for b in range(blocks):
            at = slice(16 * b, 16 * b + 16)
            a = h[at, at]
            u = np.linalg.cholesky(np.linalg.inv(a)).T
            old = w[:, at] - d[:, at]
            v = old + np.linalg.solve(a, g[:, at].T).T
            e = v - old
            least = np.einsum("ij,jk,ik->i", e, a, e) * (1 - 1e-9)
            best_q, best_s, found = c.q[:, at].copy(), c.s[:, b].copy(), old.copy()
            base = np.searchsorted(E4M3, np.minimum(np.abs(v).max(1) / 6 / c.tensor, 448), "right") - 1
            for offset in range(-8, 8):
                s = E4M3[np.clip(base + offset, 1, 126)]
                step = s * c.tensor
                x, q, err = v.copy(), np.empty_like(v), np.empty_like(v)
                for j in range(16):
                    q[:, j] = to_e2m1(x[:, j] / step)
                    err[:, j] = (x[:, j] - q[:, j] * step) / u[j, j]
                    x[:, j + 1:] -= err[:, j:j + 1] * u[j, j + 1:]
                loss = (err * err).sum(1)
                better = loss < least
                least[better], best_s[better] = loss[better], s[better]
                best_q[better], found[better] = q[better], (q * step[:, None])[better]
            change = found - old
            d[:, at] -= change
            g -= change @ h[at]
            c.q[:, at], c.s[:, b] = best_q, best_s


def solve_scales(w, c, h):
    """All scales of a row by least squares, rounded to E4M3 one after another, each mistake made good by those still open."""
    out = c.copy()
    blocks = c.s.shape[1]
    for r in range(len(w)):
        z = np.zeros((blocks, w.shape[1]))
        for b in range(blocks):
            z[b, 16 * b:16 * b + 16] = c.q[r, 16 * b:16 * b + 16] * c.tensor
        m = z @ h @ z.T
        m += np.eye(blocks) * 1e-9 * max(np.trace(m), 1e-30)
        s = np.linalg.solve(m, z @ h @ w[r])
        u = np.linalg.cholesky(np.linalg.inv(m)).T
        for b in range(blocks):
            to = E4M3[1:][np.abs(E4M3[1:] - s[b]).argmin()]
            e = (s[b] - to) / u[b, b]
            s[b] = to
            s[b + 1:] -= e * u[b, b + 1:]
        out.s[r] = s
    worse = lost(w, out, h) > lost(w, c, h)
    out.s[worse] = c.s[worse]
    return out


def learn(w, c, h):
    """AdaRound over the two E2M1 values beside each w / scale, scales fixed: Adam, h(v) pushed to 0 or 1 at the end."""
    step = np.repeat(c.s, 16, 1) * c.tensor
    x = np.clip(w / step, -6, 6)
    i = np.clip(np.searchsorted(VALUES, x, "right") - 1, 0, len(VALUES) - 2)
    low, gap = VALUES[i], VALUES[i + 1] - VALUES[i]
    start = np.clip(np.where(np.isclose(c.q, low), .2, np.where(np.isclose(c.q, low + gap), .8, (x - low) / gap)), .05, .95)
    v = -np.log(1.2 / (start + .1) - 1)
    mean, square, scale = np.zeros_like(v), np.zeros_like(v), 1 / np.maximum(lost(w, c, h), 1e-30)[:, None]
    for k in range(LEARNED):
        sigma = 1 / (1 + np.exp(-v))
        soft = np.clip(1.2 * sigma - .1, 0, 1)
        slope = 1.2 * sigma * (1 - sigma) * ((soft > 0) & (soft < 1))
        d = w - (low + soft * gap) * step
        grad = -2 * (d @ h) * gap * step * scale * slope
        if k > LEARNED // 5:
            beta = 20 - 18 * (k / LEARNED)
            y = 2 * soft - 1
            grad += 1e-2 * -2 * beta * np.sign(y) * np.abs(y) ** (beta - 1) * slope
        mean, square = .9 * mean + .1 * grad, .999 * square + .001 * grad * grad
        v -= 2e-2 * (mean / (1 - .9 ** (k + 1))) / (np.sqrt(square / (1 - .999 ** (k + 1))) + 1e-12)
    out = c.copy()
    out.q = low + (np.clip(1.2 / (1 + np.exp(-v)) - .1, 0, 1) > .5) * gap
    return out


def main():
    net, sites = asked()
    table = {}
    for (layer, name), x in sites.items():
        w = net.w(f"blk.{layer}.{name}").astype(np.float64)
        w = w[::max(1, len(w) // ROWS)][:ROWS]
        seen, judge = moments(x[:TRAIN]), moments(x[TRAIN:])
        diagonal = np.diag(seen)
        h = .8 * seen + np.diag(.2 * diagonal + 1e-3 * diagonal.mean())  # as gptq shrinks it
        c = Choice(w, gptq(w, seen))
        descend(w, c, h, PASSES)
        base = [lost(w, c, m).sum() for m in (h, judge)]
        row = table.setdefault(name, {})

        def note(what, choice):
            row.setdefault(what, []).append([lost(w, choice, m).sum() / b for m, b in zip((h, judge), base)])

        more = c.copy()
        descend(w, more, h, 2)
        note("two passes more", more)
        both = c.copy()
        for _ in range(2):
            both = solve_scales(w, both, h)
            descend(w, both, h, 1)
        note("scales solved, a pass, twice", both)
        note("scales solved alone", solve_scales(w, c, h))
        learned = learn(w, c, h)
        note("learned rounding", learned)
        descend(w, learned, h, 2)
        note("learned rounding, two passes", learned)
        print(f"layer {layer} {name}", {k: np.round(v[-1], 3).tolist() for k, v in row.items()}, file=sys.stderr, flush=True)
    names = list(table)
    print("| chosen on, held out | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for what in table[names[0]]:
        cells = [np.exp(np.log(table[name][what]).mean(0)) for name in names]
        print(f"| {what} | " + " | ".join(f"{a:.3f}, {b:.3f}" for a, b in cells) + " |")


if __name__ == "__main__":
    main()
