"""The committed lock holds no address and drops no pin."""

import importlib.util
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clean():
    spec = importlib.util.spec_from_file_location("clean_lock", ROOT / ".ci" / "clean_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.clean


def committed():
    git = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not a git checkout")
    return git.stdout


def pins(text):
    return sorted((p["name"], p.get("version")) for p in tomllib.loads(text)["package"])


def test_the_committed_lock_has_no_address():
    text = committed()
    assert "://" not in text, "set up the filter (see CONTRIBUTING.md) and commit uv.lock again"
    assert {p["source"]["registry"] for p in tomllib.loads(text)["package"] if "registry" in p["source"]} == {"."}


def test_the_committed_lock_keeps_every_pin_of_the_working_one():
    assert pins(committed()) == pins((ROOT / "uv.lock").read_text()), "uv.lock changed: commit it"


def test_cleaning_drops_addresses_and_nothing_else(clean):
    full = """version = 1

[[package]]
name = "a"
version = "1.0"
source = { registry = "https://example.org/simple" }
dependencies = [
    { name = "b" },
]
sdist = { url = "https://example.org/a.tar.gz", hash = "sha256:0", size = 1 }
wheels = [
    { url = "https://example.org/a.whl", hash = "sha256:0", size = 1 },
]

[package.optional-dependencies]
more = [
    { name = "b" },
]

[package.metadata]
requires-dist = [
    { name = "b", specifier = ">=2" },
]
provides-extras = ["more"]

[package.metadata.requires-dev]
dev = [{ name = "b" }]

[[package]]
name = "b"
version = "2.0"
source = { registry = "https://example.org/simple" }
wheels = [{ url = "https://example.org/b.whl" }]
"""
    once = clean(full)
    assert "://" not in once
    assert "metadata" not in once
    assert pins(once) == pins(full)
    assert tomllib.loads(once)["package"][0]["optional-dependencies"] == {"more": [{"name": "b"}]}
    assert clean(once) == once
