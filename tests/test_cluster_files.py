"""The files of cluster/: what they say is there, fits together, and is a command."""

import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from pellucid.core.command_lines import check

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
VERSION = next(
    one["version"] for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"] if one["name"] == "ray"
)

# The part of KubeRay's ray.io/v1 schema that the files use.
_POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {"spec": {"type": "object", "required": ["containers", "volumes"]}},
}
_GROUP = {
    "type": "object",
    "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    "additionalProperties": False,
    "properties": {
        "groupName": {"type": "string"},
        "replicas": {"type": "integer"},
        "minReplicas": {"const": 0},
        "maxReplicas": {"type": "integer", "minimum": 1},
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": _POD,
    },
}
_CLUSTER = {
    "type": "object",
    "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"const": VERSION},
        "authOptions": {"const": {"mode": "token"}},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "headGroupSpec": {
            "type": "object",
            "required": ["rayStartParams", "template"],
            "additionalProperties": False,
            "properties": {"rayStartParams": {"const": {"num-cpus": "0"}}, "template": _POD},
        },
        "workerGroupSpecs": {"type": "array", "items": _GROUP, "minItems": 2},
    },
}
_JOB = {
    "type": "object",
    "required": ["entrypoint", "backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "rayClusterSpec"],
    "additionalProperties": False,
    "properties": {
        "suspend": {"type": "boolean"},
        "entrypoint": {"type": "string"},
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        "backoffLimit": {"const": 2},
        "submitterConfig": {"const": {"backoffLimit": 0}},
        "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
        "shutdownAfterJobFinishes": {"const": True},
        "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
        "rayClusterSpec": _CLUSTER,
    },
}
_RESOURCES = {"RayCluster": _CLUSTER, "RayJob": _JOB}


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_a_kubernetes_file_follows_the_schema(name: str) -> None:
    found = yaml.safe_load((CLUSTER / name).read_text())
    assert found["apiVersion"] == "ray.io/v1"
    jsonschema.validate(found["spec"], _RESOURCES[found["kind"]])
    spec = found["spec"].get("rayClusterSpec", found["spec"])
    assert {group["groupName"] for group in spec["workerGroupSpecs"]} == {"cpu", "gpu"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert set(mounts) == {"/cache", "/data", "/dev/shm"}
        assert set(mounts.values()) == set(volumes)
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        limits = pod["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (group.get("groupName") == "gpu")


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml"])
def test_a_launcher_file_is_one_that_ray_takes(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = yaml.safe_load((CLUSTER / name).read_text())
    validate_config(prepare_config(found))
    assert found["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert "--dashboard-host=127.0.0.1" in found["head_start_ray_commands"][1]


def test_ray_is_the_locks_version() -> None:
    said = [match for file in CLUSTER.iterdir() for match in re.findall(r"\b2\.\d+\.\d+\b", file.read_text())]
    assert said
    assert set(said) == {VERSION}


def test_every_command_is_one_that_the_packages_take() -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    lines = re.findall(r"^    (pellucid [^\n]*)", (CLUSTER / "README.md").read_text(), re.MULTILINE)
    assert len(lines) > 6
    for line in [job, *lines]:
        words = shlex.split(line)[1:]
        check(words)
        if "--" in words:
            check(words[words.index("--") + 1 :])


def test_the_image_has_what_the_files_mount() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "HF_HOME=/cache/huggingface" in text
    assert "PELLUCID_CACHE=/cache/pellucid" in text
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in text
