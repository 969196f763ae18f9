# SPDX-License-Identifier: Apache-2.0
"""`cmake --install` gives what it promises: the program runs from its new place, and a C and a C++ program
build against the library with pkg-config alone and talk to it."""
import os
import pathlib
import re
import shlex
import subprocess

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
PREFIX_FILES = ["bin/nibble", "include/nibble.h", "include/nibble_gemm.h", "share/man/man1/nibble.1", "share/bash-completion/completions/nibble"]
HELLO = r"""
#include <nibble.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    nib_engine *engine = NULL;
    nib_error err = {{0}};
    nib_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    nib_status status = nib_open(&engine, "there-is-no-such-model.gguf", &options, &err);
    printf("nibble %s: %d, %s\n", NIB_VERSION, (int)status, err.text);
    nib_close(engine);
    return status == NIB_OK;
}
"""


def run(*command, env=None, check=True):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env, timeout=120)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def prefix(tmp_path_factory, nibble_path):
    prefix = tmp_path_factory.mktemp("prefix") / "nibble installed"  # a blank in it, on purpose
    run("cmake", "--install", nibble_path.parent, "--prefix", prefix)
    return prefix


def library_folder(prefix):
    found = list(prefix.glob("lib/**/libnibble.so"))
    assert len(found) == 1, f"libnibble.so in {prefix}/lib: {found}"
    return found[0].parent


def test_all_files_are_there(prefix):
    for name in PREFIX_FILES:
        assert (prefix / name).is_file(), name
    library = library_folder(prefix)
    assert (library / "libnibble.so.0").is_symlink()
    assert (library / "pkgconfig/nibble.pc").is_file()
    soname = run("readelf", "-d", library / "libnibble.so").stdout
    assert "soname: [libnibble.so.0]" in soname.replace("Library ", "")
    installed = {str(p.relative_to(prefix)) for p in prefix.rglob("*") if p.is_file() and not p.is_symlink()}
    assert len(installed) == len(PREFIX_FILES) + 3, installed  # and both libraries, and nibble.pc


def test_the_program_runs_from_there(prefix):
    assert run(prefix / "bin/nibble", "--version").stdout.startswith("nibble ")


def test_the_library_exports_its_api_and_nothing_else(prefix):
    symbols = run("nm", "-D", "--defined-only", library_folder(prefix) / "libnibble.so").stdout.split("\n")
    names = {line.split()[-1].split("@")[0] for line in symbols if line.strip()}
    header = (prefix / "include/nibble.h").read_text() + (prefix / "include/nibble_gemm.h").read_text()
    declared = set(re.findall(r"^[a-z][\w ]*[ *](nib_\w+)\(", header, re.M))
    assert "nib_open" in declared and names == declared, names ^ declared


@pytest.mark.parametrize("compiler, suffix, flags", [
    ("cc", "c", ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]),
    ("c++", "cpp", ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]),
])
def test_a_program_builds_against_it(prefix, tmp_path, compiler, suffix, flags):
    source = tmp_path / f"hello.{suffix}"
    source.write_text(HELLO if suffix == "c" else HELLO.replace("{{0}}", "{}"))
    library = library_folder(prefix)
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig")}
    options = run("pkg-config", "--cflags", "--libs", "nibble", env=environment).stdout
    run(compiler, *flags, source, "-o", tmp_path / "hello", *shlex.split(options), "-Wl,--as-needed")
    done = run(tmp_path / "hello", env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    version = run("pkg-config", "--modversion", "nibble", env=environment).stdout.strip()
    assert done.stdout.startswith(f"nibble {version}: ")
    assert "there-is-no-such-model.gguf" in done.stdout


def test_a_program_links_the_static_library(prefix, tmp_path):
    """It runs without the shared one, and no name of the library's insides meets the program's own."""
    (tmp_path / "hello.c").write_text(HELLO + "int pool_new(void) { return 0; }\n")
    library = library_folder(prefix)
    environment = {**os.environ, "PKG_CONFIG_PATH": str(library / "pkgconfig")}
    options = shlex.split(run("pkg-config", "--cflags", "--libs", "--static", "nibble", env=environment).stdout)
    options = [str(library / "libnibble.a") if word == "-lnibble" else word for word in options]
    run("cc", tmp_path / "hello.c", "-o", tmp_path / "hello", *options)
    done = run(tmp_path / "hello", env={key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"})
    assert "there-is-no-such-model.gguf" in done.stdout and "libnibble" not in run("ldd", tmp_path / "hello").stdout
    symbols = run("nm", "--extern-only", "--defined-only", library / "libnibble.a").stdout.splitlines()
    assert all(line.split()[-1].startswith("nib_") for line in symbols if len(line.split()) == 3)


def test_the_header_compiles_alone(prefix, tmp_path):
    for compiler, language in (("cc", "c"), ("c++", "c++")):
        run(compiler, "-x", language, "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
            prefix / "include/nibble.h", *(["-std=c11"] if language == "c" else []))


def test_the_man_page_and_the_completion_are_well_formed(prefix):
    run("bash", "-n", prefix / "share/bash-completion/completions/nibble")
    page = (prefix / "share/man/man1/nibble.1").read_text()
    assert ".TH" in page and ".SH NAME" in page
