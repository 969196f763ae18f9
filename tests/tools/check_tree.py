#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check what every file of the tree must keep to. Prints file:line: why, exits 1 when anything is wrong.

  - every source, script and build file names its licence (SPDX) in its first three lines; C files in line 1;
  - names of C, CUDA, Python and shell files are unique in the tree;
  - no path of somebody's machine stands in a file;
  - text files end with a newline, without trailing blanks;
  - with --objects BUILD: a function that src/X/file.c exports begins with the file's first word ("the prefix
    is the file"), or with that of the room's header that declares it, or with a type's name that this header
    defines, or with the room's; nib_ is the public API's and the error's alone.

usage: check_tree.py [--objects BUILD] [TREE]
"""
import argparse
import pathlib
import re
import subprocess
import sys

SPDX = "SPDX-License-Identifier: Apache-2.0"
C = {".c", ".h", ".cu", ".cuh"}
CODE = C | {".py", ".sh", ".cmake", ".bash"}
CODE_NAMES = {"CMakeLists.txt", "Makefile"}
TEXT = CODE | {".md", ".txt", ".json", ".1", ".in", ".toml", ".ini", ""}
SHARED_NAMES = {"__init__.py", "conftest.py"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|opt|root|home)/[\w.]")
SETS = "tests/golden/", "tests/fuzz/corpus", "tests/data/"


def tracked_files(tree):
    """What git tracks or would add; the files themselves where there is no repository (a release archive)."""
    done = subprocess.run(["git", "-C", tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                          capture_output=True)
    if done.returncode == 0:
        names = [name for name in done.stdout.decode().split("\0") if name]
    else:
        names = [str(path.relative_to(tree)) for path in tree.rglob("*")
                 if not path.relative_to(tree).parts[0] in ("build", "models", ".venv", ".git")]
    return sorted(name for name in set(names) if (tree / name).is_file() and not (tree / name).is_symlink())


def is_code(name, path):
    if path.suffix in CODE or path.name in CODE_NAMES:
        return True
    return name.startswith(("scripts/", ".ci/", "bench/")) and path.suffix == ""


def check_text(name, path, problems):
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        problems.append(f"{name}:1: not UTF-8 text")
        return
    lines = text.split("\n")
    if is_code(name, path):
        head = lines[:1] if path.suffix in C else lines[:3]
        if not any(SPDX in line for line in head):
            problems.append(f"{name}:1: no '{SPDX}' in the file's first line{'' if len(head) == 1 else 's'}")
    if text and not text.endswith("\n"):
        problems.append(f"{name}:{len(lines)}: no newline at the end of the file")
    for number, line in enumerate(lines, 1):
        if MACHINE_PATH.search(line):
            problems.append(f"{name}:{number}: a path of somebody's machine: {line.strip()[:80]}")
        if line != line.rstrip() and path.suffix != ".md":
            problems.append(f"{name}:{number}: blanks at the end of the line")


def check_names(names, problems):
    seen = {}
    for name in names:
        path = pathlib.PurePath(name)
        if path.suffix not in C | {".py", ".sh"} or path.name in SHARED_NAMES or name.startswith(SETS):
            continue
        if path.name in seen:
            problems.append(f"{name}:1: {seen[path.name]} has the same file name")
        seen[path.name] = name


def check_exports(tree, build, problems):
    """The exported functions of every room's objects, from nm: exact, no parsing of C."""
    n_functions = 0
    headers = {path: path.read_text() for path in (tree / "src").rglob("*.h")}
    for path in sorted((tree / "src").rglob("*.c")):
        name = path.relative_to(tree)
        objects = list((build / "CMakeFiles").glob(f"*.dir/{name}.o"))
        if not objects and {"gpu", "nogpu"} & set(name.parts):  # the build has one of the two
            continue
        if not objects:
            problems.append(f"{name}:1: no object file in {build}: build first")
            continue
        symbols = subprocess.run(["nm", "--defined-only", "--extern-only", objects[0]],
                                 capture_output=True, text=True, check=True).stdout
        for line in symbols.splitlines():
            fields = line.split()
            if len(fields) != 3 or fields[1] != "T":
                continue
            symbol = fields[2]
            if symbol.startswith("__") or symbol == "main":  # sanitizers' and the runtime's own
                continue
            n_functions += 1
            room = name.parts[1]
            if symbol.startswith("nib_") and room in ("engine", "base", "gemm"):
                continue
            words = {path.stem.split("_")[0]}
            words.add(room)
            for header, text in headers.items():
                if header.relative_to(tree).parts[1] == room and re.search(rf"\b{re.escape(symbol)}\b", text):
                    words |= {header.stem.split("_")[0], *re.findall(r"^typedef (?:struct|enum) (\w+)", text, re.M)}
            if not any(symbol == word or symbol.startswith(word + "_") for word in words):
                number = next((n for n, text in enumerate(path.read_text().splitlines(), 1)
                               if re.search(rf"\b{re.escape(symbol)}\b", text)), 1)
                problems.append(f"{name}:{number}: '{symbol}' is exported and does not begin with '{path.stem.split('_')[0]}_'")
    return n_functions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", type=pathlib.Path)
    parser.add_argument("tree", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    options = parser.parse_args()
    problems = []
    names = tracked_files(options.tree)
    for name in names:
        path = options.tree / name
        if name.startswith(SETS) and path.suffix not in CODE:
            continue
        if path.suffix in TEXT and (path.suffix or is_code(name, path) or path.name.startswith(".")):
            check_text(name, path, problems)
    check_names(names, problems)
    exports = ""
    if options.objects:
        exports = f", {check_exports(options.tree, options.objects, problems)} exported functions"
    for problem in problems:
        print(problem)
    if problems:
        return 1
    print(f"tree: {len(names)} files{exports}: in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
