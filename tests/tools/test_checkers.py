# SPDX-License-Identifier: Apache-2.0
"""The checkers find what they are for: each test makes a small tree with one fault in it."""
import os
import pathlib
import shutil
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


@pytest.fixture
def machine_code(tmp_path):
    """A build whose objects are what the disassembler, here cat, says of them: all that check_sass.py looks for."""
    sys.path.insert(0, str(TOOLS))
    import check_sass
    for source, wanted in check_sass.WANTED.items():
        path = tmp_path / f"CMakeFiles/room.dir/src/{source}.o"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for generation, instructions in wanted.items():
            lines.append(f"arch = {generation}")
            for one in [instructions] if isinstance(instructions, str) else instructions:
                lines.append(one.replace("\\", "").replace(".*", ".") + " ;")
        path.write_text("\n".join(lines) + "\n")
    (tmp_path / "cuobjdump").write_text('#!/bin/sh\ncat "$2"\n')
    (tmp_path / "cuobjdump").chmod(0o755)
    return tmp_path


def run_check_sass(build):
    return subprocess.run([sys.executable, TOOLS / "check_sass.py", build], capture_output=True, text=True,
                          env={**os.environ, "CUOBJDUMP": str(build / "cuobjdump")})


@pytest.mark.parametrize("source, old, new, words", [
    ("any/gemv.cu", "", "", ""),
    ("any/gemv.cu", "arch = sm_90\nHMMA", "arch = sm_90\nFFMA", "any/gemv.cu sm_90: 0 x HMMA"),
    ("sm89/tile_e4m3.cu", "QMMA.16816", "HMMA.16816", r"sm_120: 0 x QMMA\.16816"),
    ("sm90/few.cu", "arch", "LDG desc[UR5][R2.64] ;\narch", ""),
    ("sm90/few.cu", "HGMMA", "LDG desc[UR5][R2.64] ;\nHGMMA", "sm90/few.cu sm_90: 1 illegal"),
])
def test_a_missing_instruction_is_found(machine_code, source, old, new, words):
    path = machine_code / f"CMakeFiles/room.dir/src/gemm/gpu/{source}.o"
    path.write_text(path.read_text().replace(old, new))
    done = run_check_sass(machine_code)
    assert done.returncode == bool(words), done.stdout
    assert words in done.stdout


def test_a_missing_object_is_found(machine_code):
    (machine_code / "CMakeFiles/room.dir/src/gemm/gpu/sm90/pairs.cu.o").unlink()
    done = run_check_sass(machine_code)
    assert done.returncode == 1
    assert "sm90/pairs.cu: no object" in done.stdout


def test_a_missing_disassembler_is_said(tmp_path):
    if shutil.which("/usr/local/cuda/bin/cuobjdump"):
        pytest.skip("there is a cuobjdump that does not stand in PATH")
    tool = tmp_path / "tests/tools/check_sass.py"
    tool.parent.mkdir(parents=True)
    tool.write_text((TOOLS / "check_sass.py").read_text())
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 0
    assert done.stdout.startswith("SKIPPED [1] no cuobjdump")
