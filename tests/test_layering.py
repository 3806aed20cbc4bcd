"""Who may import whom, and what a plain import may not bring in."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_import_rules_hold():
    run = subprocess.run(["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "package",
    [
        "pellucid.compose",
        "pellucid.core",
        "pellucid.fewshot_hard",
        "pellucid.influence",
        "pellucid.mllm_edit",
        "pellucid.qa_circuits",
        "pellucid.t2i_edit",
        "pellucid.vit_components",
        "pellucid.zoo",
    ],
)
def test_a_package_import_is_light(package):
    heavy = "torch", "ray", "diffusers", "matplotlib", "transformers", "bitsandbytes"
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_using_qa_circuits_does_not_import_ray_diffusers_or_matplotlib():
    code = (
        "import sys; from pellucid.qa_circuits import patched_scores, extract_circuit, read_probes, encode;"
        "print([m for m in ('ray', 'diffusers', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_namespace_has_no_init_file():
    assert not list(ROOT.glob("*/*/src/pellucid/__init__.py"))
