#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden RoPE tables: config.json texts and what `transformers` makes of them.

    python3 tests/tools/make_rope_goldens.py [OUT]      (default: tests/golden/rope/rope.json)

needs torch and transformers; the versions used stand in the file. Each case holds a config, the context asked
for, the factor on cosine and sine, and inv_freq. Read by tests/unit/store/test_rope_goldens.c.
"""
import json
import pathlib
import platform
import sys
from importlib.metadata import version

import torch
from transformers import LlamaConfig, Phi3Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

CLASSES = {"llama": LlamaConfig, "qwen3": Qwen3Config, "phi3": Phi3Config}


def case(name, config, context=None, spelling="rope_scaling"):
    """CONFIG without its scaling words, which stand under "scaling"."""
    config = dict(config)
    scaling = config.pop("scaling")
    theta = config.pop("rope_theta", 10000.0)
    made = CLASSES[config["model_type"]](**{k: v for k, v in config.items() if k != "model_type"},
                                         rope_parameters={"rope_theta": theta, **scaling})
    inv_freq, factor = ROPE_INIT_FUNCTIONS[made.rope_parameters["rope_type"]](made, "cpu", seq_len=context)
    if spelling == "rope_scaling":
        config |= {"rope_theta": theta, "rope_scaling": scaling}
    else:
        config["rope_parameters"] = {"rope_theta": theta, **scaling}
    return {"name": name, "config": config, "context": context or config["max_position_embeddings"],
            "attention_factor": float(factor), "inv_freq": [float(x) for x in inv_freq.to(torch.float32)]}


def shape(kind, context, **more):
    return {"model_type": kind, "hidden_size": 256, "num_attention_heads": 4, "head_dim": 64,
            "max_position_embeddings": context, **more}


def cases():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    n = 32
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 4096,
                "short_factor": [1.0 + 0.01 * i for i in range(n)], "long_factor": [1.0 + 0.7 * i for i in range(n)]}
    qwen = shape("qwen3", 131072, rope_theta=1000000.0)
    yield case("linear", shape("llama", 4096, scaling={"rope_type": "linear", "factor": 8.0}))
    yield case("llama3", shape("llama", 131072, rope_theta=500000.0,
                               scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                                        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}))
    yield case("yarn of Qwen3", qwen | {"scaling": yarn})
    yield case("yarn in rope_parameters", qwen | {"scaling": yarn}, spelling="rope_parameters")
    yield case("yarn with its own attention factor", qwen | {"scaling": yarn | {"attention_factor": 0.9}})
    yield case("yarn with two logarithms", qwen | {"scaling": yarn | {"factor": 40.0, "mscale": 0.707,
                                                                      "mscale_all_dim": 1.2}})
    yield case("yarn with one logarithm", qwen | {"scaling": yarn | {"mscale": 0.707}})
    yield case("yarn with other ends", qwen | {"scaling": yarn | {"beta_fast": 16.0, "beta_slow": 2.0}})
    yield case("yarn without truncation", shape("llama", 131072, rope_theta=150000.0,
                                                scaling={"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0,
                                                         "beta_slow": 1.0, "truncate": False,
                                                         "original_max_position_embeddings": 4096}))
    yield case("yarn that does not stretch", qwen | {"scaling": yarn | {"factor": 1.0}})
    dynamic = shape("llama", 2048, scaling={"rope_type": "dynamic", "factor": 2.0})
    for context in (1000, 2048, 2049, 8192):
        yield case(f"dynamic for {context}", dynamic, context)
    for context in (4096, 4097, 131072):
        yield case(f"longrope for {context}", shape("llama", 131072, scaling=longrope), context)
    yield case("longrope with its own factors", shape("llama", 131072, scaling=longrope | {
        "factor": 16.0, "attention_factor": 1.5}), 4096)


def main():
    here = pathlib.Path(__file__).resolve().parents[1]
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "golden/rope/rope.json"
    versions = {p: version(p) for p in ("torch", "transformers")} | {"python": platform.python_version()}
    out.write_text(json.dumps({"versions": versions, "cases": list(cases())}, indent=1) + "\n")
    print(f"{out}: {len(list(cases()))} cases")


if __name__ == "__main__":
    main()
