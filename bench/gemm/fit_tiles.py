#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fit the constants of choice.c's model of a product's time to every form that was timed.

usage: fit_tiles.py src/gemm/choice.c FILE...    FILE: what `bench_gemm w4a8-whole ...`, w4a16-whole, w4a8 or w4a16 printed

Prints, for each product, the fastest form and the one the model takes with the new constants; writes them into choice.c.
Forms near the fastest count most; the model is tile_us there, said again here, and what the activations' preparation takes where
it is in the time, whatever the form."""
import re
import sys

SMS = 132
AT = {(32, 128): 0, (64, 128): 1, (128, 128): 2, (256, 128): 3, (64, 192): 4, (128, 192): 5}  # choice.c's tiles


def read(paths):
    rows = []
    for path in paths:
        for line in open(path):
            if line.startswith("#"):
                kind, whole = "bf16" if "w4a16" in line else "e4m3", "-whole" in line
            p = line.strip().split(",")
            if p[0].isdigit() and (int(p[3]), int(p[7])) in AT:
                rows.append((kind, *map(int, p[:3]), (int(p[3]), int(p[7])), int(p[4]), whole, float(p[5])))
    return rows


def clusters(ranks):
    return SMS // 2 if ranks == 2 else SMS * (13 if ranks == 3 else 10) // 44


def tiles_of(n, m, tile):
    return -(-n // tile[1]) * -(-m // tile[0])


def microseconds(c, kind, n, k, m, tile, ranks, whole):
    us = tile_us(c, kind, n, k, m, tile, ranks)
    return us + c["prepare", kind] + c["prepare_mk", kind] * m * k / 2**20 if whole else us


def tile_us(c, kind, n, k, m, tile, ranks):
    i, groups, tiles = AT[tile], -(-k // 128), tiles_of(n, m, tile)
    busy = min(tiles * ranks, SMS) / SMS if ranks else 1
    stage = c[kind, i] * (c["spare"] + (1 - c["spare"]) * busy)
    again = c["turn"] * tile[0] * tile[1] / (128 * 128)
    if ranks == 0:
        return (c["launch"] + tiles / SMS * groups * stage + c[kind + "_hand_on", i] * max(1.0, SMS / tiles)
                + again * (tiles / SMS if tiles <= SMS else 1 + tiles // SMS))
    if ranks > 1:
        return c["launch"] + -(-groups // ranks) * stage + c["meet", i]
    return c["launch"] + -(-tiles // SMS) * groups * stage + again * (-(-tiles // SMS) - 1)


def weighed(rows, best):
    for row in rows:
        kind, n, k, m, tile, ranks, whole, us = row
        if tile[0] >= 2 * m or (ranks > 1 and tiles_of(n, m, tile) > clusters(ranks)):
            continue
        near = us / best[row[:4], whole]
        yield row, 1.0 if near < 1.15 else 0.15 if near < 1.5 else 0.03


def fit(rows):
    c = {(kind, i): v[i] for i in range(6) for kind, v in {
        "e4m3": (0.34, 0.42, 0.53, 0.81, 0.6, 0.8), "bf16": (0.38, 0.47, 0.7, 1.3, 0.7, 1.1),
        "e4m3_hand_on": (0.5, 0.8, 0.8, 1.6, 0.8, 0.8), "bf16_hand_on": (0.5, 0.8, 1.1, 1.9, 0.9, 1.4), "meet": (0.5, 0.6, 1.0, 0.0, 0.8, 1.4)}.items()}
    c.update({(name, kind): 1.0 for name in ("prepare", "prepare_mk") for kind in ("e4m3", "bf16")})
    c.update(launch=3.5, spare=0.7, turn=0.5)

    def cost(c):
        return sum(w * (microseconds(c, *row[:7]) / row[7] - 1) ** 2 for row, w in rows)

    now = cost(c)
    for step in (0.2, 0.1, 0.05, 0.02, 0.01):
        moved = True
        while moved:
            moved = False
            for key in c:
                for factor in (1 + step, 1 - step):
                    d = {**c, key: c[key] * factor}
                    if cost(d) < now - 1e-9:
                        c, now, moved = d, cost(d), True
    return c


def write(path, c):
    def array(kind):
        return "{" + ", ".join("%.3f" % c[kind, i] for i in range(6)) + "}"

    text = open(path).read()
    for kind in ("e4m3", "bf16", "e4m3_hand_on", "bf16_hand_on", "meet"):
        text = re.sub(kind + r"\[\] = \{[^}]*\}", f"{kind}[] = {array(kind)}", text)
    for name in ("launch", "spare", "turn"):
        text = re.sub(name + r" = [\d.]+", f"{name} = {c[name]:.3f}", text)
    open(path, "w").write(text)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    rows, best, loss = read(sys.argv[2:]), {}, []
    for row in rows:
        best[row[:4], row[6]] = min(best.get((row[:4], row[6]), 1e9), row[7])
    rows = list(weighed(rows, best))
    c = fit(rows)
    for (product, whole), us in sorted(best.items()):
        forms = [(tile_us(c, *row[:6]), row[7], row[4:6]) for row, _ in rows
                 if row[:4] == product and row[6] == whole]
        said, taken, form = min(forms)
        loss.append(taken / us)
        print(*product, "whole" if whole else "alone", f"fastest {us:.1f}, taken {form} {taken:.1f}, said {said:.1f}")
    print(f"taken / fastest: mean {sum(loss) / len(loss):.3f}, worst {max(loss):.3f}")
    write(sys.argv[1], c)


main()
