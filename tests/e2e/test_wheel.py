# SPDX-License-Identifier: Apache-2.0
"""scripts/build-wheel: the wheel holds the library, which needs libc alone, and works from where it is unpacked."""
import os
import re
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("numpy", reason="the package needs NumPy: pip install numpy")


@pytest.fixture(scope="module")
def unpacked(tree, tmp_path_factory):
    built = subprocess.run([tree / "scripts" / "build-wheel", "release"], capture_output=True, text=True, timeout=300)
    if built.returncode and re.search(r"No matching distribution|Could not find a version|connection", built.stderr, re.I):
        pytest.skip("pip could not fetch setuptools, which builds the wheel: pip install setuptools wheel")
    assert built.returncode == 0, built.stderr
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(tree / built.stdout.strip()) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_library_needs_libc_alone(unpacked):
    library = unpacked / "nibble" / "libnibble_gemm.so"
    said = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(lib\w+)", said))
    assert needed <= {"libc", "libm", "libdl", "libpthread", "librt", "libgcc_s"}, needed
    names = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout.split("\n")
    exported = {line.split()[-1] for line in names if line}
    assert "nib_gemm_matmul" in exported and all(name.startswith("nib_gemm_") for name in exported), exported


def test_it_works_where_it_lies(unpacked):
    program = ("import nibble, numpy as np; w = np.ones((16, 32), np.float32);"
               "print(nibble.fp4_linear(np.ones((2, 32), np.float32), w)[1, 3], nibble.explain(1, 4096, 4096, arch=90))")
    environment = {k: v for k, v in os.environ.items() if k not in ("NIBBLE_LIBRARY", "PYTHONPATH")}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=unpacked, env=environment)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("32.0 auto [4096, 4096] x 1 tokens")
