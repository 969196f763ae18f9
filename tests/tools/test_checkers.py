# SPDX-License-Identifier: Apache-2.0
"""The checkers find what they are for: each test makes a small tree with one fault in it."""
import pathlib
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).parent
C_HEAD = "/* SPDX-License-Identifier: Apache-2.0\n *\n * A file.\n */\n"


def run(tool, *arguments):
    return subprocess.run([sys.executable, TOOLS / tool, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path):
    files = {
        "src/LAYERS": "# rooms\nbase:\nnum: base\nstore: base num\n",
        "src/base/mem.h": C_HEAD,
        "src/base/mem.c": C_HEAD + '#include "base/mem.h"\n#include "nibble.h"\n',
        "src/num/e2m1.h": C_HEAD + '#include "base/mem.h"\n',
        "src/store/gguf.c": C_HEAD + '#include "num/e2m1.h"\n#include <stdio.h>\n',
        "include/nibble.h": C_HEAD + "#include <stddef.h>\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def append(tree, name, text):
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


def test_a_good_tree_passes(tree):
    for tool in ("check_layers.py", "check_tree.py"):
        done = run(tool, tree)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name, text, words", [
    ("src/base/mem.c", '#include "num/e2m1.h"\n', "mem.c:7: base may not include num"),
    ("src/num/e2m1.h", '#include "store/gguf.h"\n', "num may not include store"),
    ("src/store/gguf.c", '  #  include "mem.h"\n', "include \"mem.h\" by its room"),
    ("src/store/gguf.c", '#include "base/gone.h"\n', "there is no src/base/gone.h"),
    ("src/store/gguf.c", '#include "cuda/host.h"\n', "is in no room"),
    ("src/LAYERS", "base: num\n", "room 'base' is listed twice"),
    ("src/LAYERS", "text: engine\n", "'engine', which is not listed above it"),
    ("src/attic/old.c", C_HEAD, "room 'attic' is not in src/LAYERS"),
    ("include/nibble.h", '#include "base/mem.h"\n', "the public header includes only"),
])
def test_a_wrong_include_is_found(tree, name, text, words):
    append(tree, name, text)
    done = run("check_layers.py", tree)
    assert done.returncode == 1
    assert words in done.stdout


@pytest.mark.parametrize("name, text, words", [
    ("src/num/bare.c", "int bare_value;\n", "bare.c:1: no 'SPDX"),
    ("src/num/bare.cu", "int bare_value;\n", "bare.cu:1: no 'SPDX"),
    ("scripts/tool", "#!/bin/sh\necho\n", "scripts/tool:1: no 'SPDX"),
    ("src/store/mem.c", C_HEAD, "has the same file name"),
    ("src/num/e2m1.h", "/* see /" + "home/me/notes */\n", "a path of somebody's machine"),
    ("src/num/e2m1.h", "/* no end", "no newline at the end"),
    ("src/num/e2m1.h", "int x; \n", "blanks at the end of the line"),
])
def test_a_wrong_file_is_found(tree, name, text, words):
    append(tree, name, text)
    done = run("check_tree.py", tree)
    assert done.returncode == 1
    assert words in done.stdout


def test_a_wrong_export_is_found(tree):
    source = tree / "src/store/gguf.c"
    source.write_text(C_HEAD + "int gguf_open(void) { return 0; }\nint open_it(void) { return 0; }\n")
    for name in ("src/base/mem.c", "src/store/gguf.c"):
        out = tree / "build/CMakeFiles/room.dir" / (name + ".o")
        out.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-I", tree / "src", "-I", tree / "include", "-c", tree / name, "-o", out], check=True)
    done = run("check_tree.py", "--objects", tree / "build", tree)
    assert done.returncode == 1
    assert "gguf.c:6: 'open_it' is exported" in done.stdout
    assert "gguf_open" not in done.stdout
