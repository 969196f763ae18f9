# SPDX-License-Identifier: Apache-2.0
"""What stands behind `make demo`: a model that is here is used without a network, one that is broken is not
used at all, and wrong names are refused in words."""
import os
import shutil
import subprocess

import pytest

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}


@pytest.fixture
def checkout(tree, tmp_path):
    """A checkout with scripts of its own and the tests' Python; no network."""
    shutil.copytree(tree / "scripts", tmp_path / "scripts")
    (tmp_path / "models").mkdir()
    if (tree / ".venv").exists():
        (tmp_path / ".venv").symlink_to(tree / ".venv")
    return tmp_path


def call(checkout, script, *arguments):
    return subprocess.run([checkout / "scripts" / script, *arguments], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, env={**os.environ, **OFFLINE})


def test_a_model_that_is_here_needs_no_network(checkout, smollm2):
    (checkout / "models" / smollm2.name).symlink_to(smollm2.resolve())
    done = call(checkout, "fetch-model", "smollm2")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"models/{smollm2.name}\n", "")


def test_a_broken_model_is_not_used(checkout, smollm2):
    path = checkout / "models" / smollm2.name
    path.write_bytes(smollm2.read_bytes()[:-1] + b"x")
    done = call(checkout, "fetch-model", "smollm2")
    assert done.returncode != 0
    assert "is not what it should be (SHA-256 differs)" in done.stderr
    assert path.name not in done.stdout


def test_what_cannot_be_fetched_leaves_nothing_behind(checkout):
    done = call(checkout, "fetch-model", "gemma3-270m")
    assert done.returncode != 0
    assert not list((checkout / "models").glob("*.gguf*"))


@pytest.mark.parametrize("script", ["fetch-model", "demo", "setup"])
def test_a_wrong_name_is_refused(checkout, script):
    done = call(checkout, script, "no-such-thing")
    assert done.returncode == 2
    assert "usage: " in done.stderr
