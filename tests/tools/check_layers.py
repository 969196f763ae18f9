#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that rooms include only what src/LAYERS allows.

Prints one line per wrong include (file:line: why) and exits 1 when there is any. Rules:
  - a quoted include under src/ is "ROOM/file.h" or a public header, and the file exists;
  - ROOM is the includer's own room or one that src/LAYERS lists for it;
  - src/LAYERS lists every room once, each only with rooms above it in the file (so there is no cycle);
  - include/nibble.h includes only the system's headers.

usage: check_layers.py [TREE]
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def read_layers(path, problems):
    rooms = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, below = line.partition(":")
        name = name.strip()
        if not colon or not name:
            problems.append(f"{path}:{number}: expected 'room: rooms it may include'")
            continue
        if name in rooms:
            problems.append(f"{path}:{number}: room '{name}' is listed twice")
        for lower in below.split():
            if lower not in rooms:
                problems.append(f"{path}:{number}: '{name}' may include '{lower}', which is not listed above it")
        rooms[name] = set(below.split())
    return rooms


def check_file(path, room, rooms, src, problems):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        where = f"{path}:{number}"
        if target in ("nibble.h", "nibble_gemm.h"):
            continue
        if "/" not in target:
            problems.append(f'{where}: include "{target}" by its room: "{room}/{target}"')
            continue
        other = target.split("/")[0]
        if other not in rooms:
            problems.append(f'{where}: "{target}" is in no room of src/LAYERS')
        elif other != room and other not in rooms[room]:
            problems.append(f'{where}: {room} may not include {other} ("{target}")')
        elif not (src / target).is_file():
            problems.append(f'{where}: there is no src/{target}')


def check(tree):
    src = tree / "src"
    problems = []
    rooms = read_layers(src / "LAYERS", problems)
    n_files = 0
    for path in sorted(src.rglob("*.[ch]")):
        room = path.relative_to(src).parts[0]
        n_files += 1
        if room not in rooms:
            problems.append(f"{path}:1: room '{room}' is not in src/LAYERS")
            continue
        check_file(path, room, rooms, src, problems)
    public = tree / "include" / "nibble.h"
    for number, line in enumerate(public.read_text().splitlines(), 1):
        if INCLUDE.match(line):
            problems.append(f"{public}:{number}: the public header includes only the system's headers")
    return problems, n_files, len(rooms)


def main():
    tree = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    problems, n_files, n_rooms = check(tree)
    for problem in problems:
        print(problem)
    if problems:
        return 1
    print(f"layers: {n_files} files in {n_rooms} rooms, every include is allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
