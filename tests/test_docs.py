"""The documentation site builds without a warning or the network, and asks nobody else for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="(https?:[^"]+)"', text)
        assert not loaded, (page.name, loaded)
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?https?:", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_every_package_has_its_method_its_options_and_its_api(site: Path) -> None:
    for package in PACKAGES:
        api = (site / f"api/{package}.html").read_text(encoding="utf-8")
        assert f"pellucid.{package.replace('-', '_')}" in api
        assert "Raises" in api
        if package != "core":
            method = (site / f"methods/{package}.html").read_text(encoding="utf-8")
            assert "Options" in method
            assert "--out DIR" in method
