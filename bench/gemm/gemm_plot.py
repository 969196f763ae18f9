#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plot `nibble gemm --bench -o csv`: how much faster `auto` is than cuBLAS BF16, over the tokens, a line a weight.

usage: gemm_plot.py TABLE.csv PLOT.svg TITLE
"""
import csv
import math
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 170, 40, 50
COLORS = ["#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0f766e", "#be123c", "#475569"]


def main(table, plot, title):
    lines = {}
    for row in csv.DictReader(line for line in open(table) if not line.startswith("#")):
        auto, bf16 = float(row["auto_us"] or 0), float(row["cublas_bf16_us"] or 0)
        if auto and bf16:
            lines.setdefault(f"{row['n']} x {row['k']}", []).append((int(row["m"]), bf16 / auto))
    top = max(y for points in lines.values() for _, y in points) * 1.05
    last = max(m for points in lines.values() for m, _ in points)

    def x(m):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(m) / math.log2(last)

    def y(v):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * v / top

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="14">{title}</text>']
    for tick in [v / 2 for v in range(int(top * 2) + 1)]:
        stroke = "#888" if tick == 1 else "#e5e5e5"
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{stroke}"/>'
                   f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for m in (1, 4, 16, 64, 256, 1024, 8192):
        if m <= last:
            out.append(f'<text x="{x(m):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{m}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">tokens</text>')
    for i, (name, points) in enumerate(lines.items()):
        color = COLORS[i % len(COLORS)]
        path = " ".join(f"{x(m):.1f},{y(v):.1f}" for m, v in sorted(points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
                   f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 16 * i + 10}" fill="{color}">{name}</text>')
    out.append("</svg>")
    open(plot, "w").write("\n".join(out) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: gemm_plot.py TABLE.csv PLOT.svg TITLE")
    main(*sys.argv[1:])
