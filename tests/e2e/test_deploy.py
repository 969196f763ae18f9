# SPDX-License-Identifier: Apache-2.0
"""The files of deploy/ say only what the program knows: its flags, its routes, its metrics."""
import json
import re
import shutil
import subprocess

import pytest
import yaml

from serving import Server


@pytest.fixture(scope="module")
def flags(nibble):
    return set(re.findall(r"--[a-z][a-z-]+", nibble("serve", "--help").stdout))


@pytest.fixture(scope="module")
def files(tree):
    return {path.name: path.read_text() for path in (tree / "deploy").iterdir()}


def test_flags(files, flags):
    used = {"--" + line.split("=")[0].strip() for line in files["nibble.conf"].splitlines() if line and line[0] != "#"}
    used |= set(re.findall(r"--[a-z-]+", "\n".join(re.findall(r"^ExecStart=.*", files["nibble.service"], re.M))))
    used |= set(re.findall(r"--[a-z-]+", "\n".join(re.findall(r"^ENTRYPOINT.*| nibble /models.*", files["Containerfile"], re.M))))
    pods = [d for d in yaml.safe_load_all(files["kubernetes.yaml"]) if d["kind"] == "Deployment"]
    (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
    used |= {word.split("=")[0] for word in container["args"] if word.startswith("--")}
    assert len(used) > 10 and used <= flags, used - flags


def test_kubernetes_names(files):
    """What refers to something in the files finds it."""
    things = {(d["kind"], d["metadata"]["name"]): d for name in ("kubernetes.yaml", "gateway.yaml")
              for d in yaml.safe_load_all(files[name])}
    pod = things["Deployment", "nibble"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "InferencePool"):
        spec = things[kind, "nibble"]["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        assert selector.get("matchLabels", selector).items() <= pod["metadata"]["labels"].items(), kind
    assert things["HTTPRoute", "nibble"]["spec"]["rules"][0]["backendRefs"][0]["name"] == "nibble"
    scaled = things["HorizontalPodAutoscaler", "nibble"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == "nibble"
    rule = yaml.safe_load(things["ConfigMap", "nibble-adapter-rules"]["data"]["values.yaml"])["rules"]["custom"][0]
    pattern = re.search(r'__name__=~"([^"]*)"', rule["seriesQuery"]).group(1)
    for metric in scaled["metrics"]:
        assert re.fullmatch(pattern, metric["pods"]["metric"]["name"].replace("vllm_", "vllm:"))
    drain = next(int(a.split("=")[1]) for a in container["args"] if a.startswith("--drain-timeout"))
    assert drain + 5 < pod["spec"]["terminationGracePeriodSeconds"]
    picker = yaml.safe_load(things["ConfigMap", "nibble-picker-values"]["data"]["values.yaml"])["inferenceExtension"]
    config = yaml.safe_load(picker["pluginsCustomConfig"][picker["pluginsConfigFile"]])
    assert [p["pluginRef"] for p in config["schedulingProfiles"][0]["plugins"]] == [p["type"] for p in config["plugins"]]


def test_metrics(files, nibble_path, tree, tmp_path):
    """Every metric of the dashboard, the alerts and the scaling is one that the server writes; nibble.conf starts it."""
    config = tmp_path / "nibble.conf"
    config.write_text(files["nibble.conf"].replace("port = 8000\n", ""))
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--config", config) as s:
        assert s.ask("GET", "/load")[0] == 401
        status, _, text = s.ask("GET", "/metrics", None, {"Authorization": "Bearer change-me"})
    written = set(re.findall(r"^([a-z0-9_:]+)", text.decode(), re.M))
    panels = json.loads(files["grafana.json"])["panels"]
    used = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    used += files["prometheus-rules.yaml"] + files["gateway.yaml"]
    names = set(re.findall(r"\b(?:vllm|nibble|process):?_?[a-z0-9_:]*[a-z]", used)) - {"nibble", "nibble.yaml", "nibble-epp"}
    names = {name for name in names if ":" in name or name.startswith("process_")}
    assert status == 200 and len(names) > 15 and names <= written, names - written


def test_unit_file(files, nibble_path, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    unit = tmp_path / "nibble.service"
    unit.write_text(files["nibble.service"].replace("/usr/local/bin/nibble", str(nibble_path)))
    done = subprocess.run(["systemd-analyze", "--man=no", "verify", unit], capture_output=True, text=True)
    assert "nibble.service:" not in done.stderr, done.stderr  # its own lines; other units are the machine's


def test_container_packages(files, tree):
    """The image builds with what scripts/setup installs."""
    setup = (tree / "scripts" / "setup").read_text()
    wanted = set(re.findall(r"lib[a-z0-9-]+-dev", setup.split("case")[0]))
    assert wanted == set(re.findall(r"lib[a-z0-9-]+-dev", files["Containerfile"]))
