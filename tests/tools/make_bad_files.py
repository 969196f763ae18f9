# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/bad: model files that must be refused, each with its sentence and exit code.

usage: make_bad_files.py [OUT_DIR [SEEDS_DIR]]
       (default tests/golden/bad and tests/fuzz; Python 3 standard library only)

Every file is a small sound model with one thing wrong, so that it is refused for that thing and no other.
good/ holds sound ones, one per convention; the seeds of the fuzz targets are made from them.

EXPECTED.tsv lists: path, room that refuses (store: opening the file is enough; text: the tokenizer or the chat
template; model: only running it; quant: only writing a directory of it), command, exit code, sentence with the path as {} and its directory as {dir}.
Read by tests/unit/store/test_bad_files.c, tests/e2e/test_bad_files.py and, as a corpus, by the fuzz targets.
"""
import pathlib
import shutil
import sys

import tiny_models
from bad_gguf import gguf_files
from bad_safetensors import directories, safetensors_files
from sound_models import config_seeds, sound_directories, sound_gguf_files
from tiny_models import expected, write

tests = pathlib.Path(__file__).resolve().parents[1]


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else tests / "golden/bad"
    tiny_models.out = out
    tiny_models.seeds = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else tests / "fuzz"
    shutil.rmtree(out, ignore_errors=True)
    sound_gguf_files()
    sound_directories()
    config_seeds()
    gguf_files()
    safetensors_files()
    directories()
    assert len({row[0] for row in expected}) == len(expected)
    write("EXPECTED.tsv", "".join("\t".join(row) + "\n" for row in expected))
    print(f"{len(expected)} bad files")


main()
