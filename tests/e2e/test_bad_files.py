# SPDX-License-Identifier: Apache-2.0
"""Model files from strangers: every file of tests/golden/bad is refused with its sentence and exit code, within a
second, without a large allocation; the sound ones beside them are not."""
import pathlib
import subprocess
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import measured

BAD = pathlib.Path(__file__).resolve().parents[1] / "golden" / "bad"
MAX_SECONDS = 1.0
MAX_RESIDENT_KIB = 64 * 1024  # the program itself takes 4 MiB; sanitizers more


def rows():
    for line in (BAD / "EXPECTED.tsv").read_text().splitlines():
        path, _, command, code, sentence = line.split("\t")
        yield pytest.param(path, command, int(code), sentence, id=path)


def run(nibble_path, command, path, output):
    name, *flags = command.split()
    arguments = [name, *flags, str(path)]
    if name == "quantize":
        arguments.append(str(output))
    if name == "run":
        arguments += ["hi", "--max-tokens", "1"] + ([] if flags else ["--no-chat"])
    return measured.run([nibble_path, *arguments])


def is_sanitized(path):
    return b"__asan_init" in pathlib.Path(path).read_bytes()


@pytest.fixture(scope="session")
def limits(nibble_path):
    slow = 10 if is_sanitized(nibble_path) else 1
    return MAX_SECONDS * slow, MAX_RESIDENT_KIB * slow


@pytest.mark.parametrize("path,command,code,sentence", list(rows()))
def test_refused(nibble_path, limits, tmp_path, path, command, code, sentence):
    full = BAD / path
    for attempt in range(3):  # a busy machine may be slow once
        got, out, err, seconds, kib = run(nibble_path, command, full, tmp_path / "out")
        assert err == f"nibble: {sentence.replace('{}', str(full)).replace('{dir}', str(BAD))}\n"
        assert got == code
        assert out == ""
        assert not list(tmp_path.iterdir())
        assert kib < limits[1], f"{kib} KiB resident"
        if seconds < limits[0]:
            return
    pytest.fail(f"took {seconds:.2f} s")


@pytest.mark.parametrize("path", sorted(p.name for p in (BAD / "good").iterdir()
                                        if p.name != "split-00002-of-00002.gguf"))
def test_sound(nibble, path):
    told = nibble("inspect", BAD / "good" / path, "--json", "--tensors")
    assert told.stderr == ""


@pytest.mark.parametrize("name", ["100k", "open", "pairs", "blocks", "closed", "quoted", "not-utf8"])
def test_unusable_template_still_runs(nibble, name):
    """--no-chat works whatever the template is, and inspect reports it."""
    path = BAD / f"template-{name}.gguf"
    nibble("run", path, "ab", "--no-chat", "--max-tokens", "1", "--temperature", "0")
    assert "a template that cannot be used" in nibble("inspect", path).stdout


def test_made_by_the_script(tmp_path, tree):
    """What is committed is what the script makes."""
    script = tree / "tests" / "tools" / "make_bad_files.py"
    subprocess.run([sys.executable, script, tmp_path / "bad", tmp_path / "seeds"], check=True, capture_output=True)

    def files(root):
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    assert files(tmp_path / "bad") == files(BAD)
    for corpus in (tmp_path / "seeds").glob("*/corpus_*"):
        assert files(corpus) == files(tree / "tests" / "fuzz" / corpus.parent.name / corpus.name)


def test_memory_is_the_programs_own():
    """However large this process is, and what a program itself takes is seen."""
    ballast = b"x" * (2 * MAX_RESIDENT_KIB * 1024)
    assert measured.run(["true"])[4] < MAX_RESIDENT_KIB // 2
    code, _, _, _, kib = measured.run([sys.executable, "-c", f"b'x' * {len(ballast)}; raise SystemExit(3)"])
    assert code == 3 and kib > MAX_RESIDENT_KIB


def test_at_least_sixty():
    assert len(list(rows())) >= 60
