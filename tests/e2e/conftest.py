# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests share: the program, the real models, the evaluation data.

Set from outside:
  NIBBLE       the program to test          (build/release/nibble)
  NIBBLE_DATA  WikiText-2 and Qwen3's tokenizer (../shared/data where that exists)
A test that needs a model or data that is not here is skipped and says what to run to get it.
"""
import fcntl
import os
import pathlib
import subprocess
import time

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
MODELS = {
    "smollm2": TREE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3-270m": TREE / "models" / "gemma-3-270m-q4_k_m.gguf",
}


def model_path(name):
    path = MODELS[name]
    if not path.exists():
        pytest.skip(f"{path.name} is not here: scripts/fetch-model {name}")
    return path


def data_path(name):
    root = pathlib.Path(os.environ.get("NIBBLE_DATA", TREE.parent / "shared" / "data"))
    path = root / name
    if not path.exists():
        pytest.skip(f"{name} is not in NIBBLE_DATA (README.md, 'Data for the tests', says where it comes from)")
    return path


@pytest.fixture(scope="session")
def tree():
    return TREE


@pytest.fixture(scope="session")
def nibble_path():
    path = pathlib.Path(os.environ.get("NIBBLE", TREE / "build" / "release" / "nibble"))
    if not path.exists():
        pytest.fail(f"{path} is not built: run make")
    return path.resolve()


@pytest.fixture(scope="session")
def nibble(nibble_path):
    """nibble("run", model, "Hello", check=True) -> subprocess.CompletedProcess; text unless text=False."""

    def call(*arguments, check=True, stdin=None, timeout=300, text=True, env=None, cwd=None):
        command = [str(nibble_path), *map(str, arguments)]
        pipe = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(command, capture_output=True, text=text, timeout=timeout, cwd=cwd,
                              env={**os.environ, **(env or {})}, **pipe)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return call


@pytest.fixture(scope="session")
def until_it_catches():
    """until_it_catches(process, signal): waits until PROCESS handles the signal instead of dying of it."""

    def wait(process, number):
        while process.poll() is None:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            if int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1:
                return
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def smollm2():
    return model_path("smollm2")


@pytest.fixture(scope="session")
def smollm2_weighted(nibble, smollm2, tmp_path_factory):
    """By `weighted`, on a part of its text; made once for all processes of a run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path, part = folder / "smollm2-weighted.gguf", folder / "part-smollm2-weighted.gguf"
    with open(folder / "smollm2-weighted.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            nibble("quantize", smollm2, part, "--method", "weighted", "--calib-tokens", 2048)
            part.rename(path)
    return path


@pytest.fixture(scope="session")
def gemma3():
    return model_path("gemma3-270m")


@pytest.fixture(scope="session")
def wikitext_test():
    return data_path("wikitext-2/test.raw.txt")


@pytest.fixture(scope="session")
def wikitext_valid():
    return data_path("wikitext-2/valid.txt")


@pytest.fixture(scope="session")
def qwen3_tokenizer():
    return data_path("qwen3-tokenizer")
