"""A look inside a vision transformer: what is told of a picture is what its components write."""

from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.studio.looking import ALIKE, SHOWN, SIZE, Carried, Looking
from pellucid.studio.looking_tab import as_table
from pellucid.vit_components.features import named
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("looks")


def looking_in(folder: Path) -> Looking:
    return Looking("zoo:tinyworld-vit", "zoo:tinyworld-clip", folder, "cpu", learnt=60, seen=40, steps=40)


@pytest.fixture(scope="module")
def looking(folder: Path) -> Looking:
    return looking_in(folder)


def test_a_look_tells_components_places_and_pictures(looking: Looking) -> None:
    path = looking.pictures()[0]
    told: list[float] = []
    found = looking.look(path, "colour", "red", lambda share, what: told.append(share))
    assert told == sorted(told)
    assert len(told) >= 4
    assert found.heat.size == (SIZE, SIZE)
    assert len(found.carried) == SHOWN
    assert [row.score for row in found.carried] == sorted((row.score for row in found.carried), reverse=True)
    assert {row.says for row in found.carried} <= set(looking.features()["colour"])
    assert len(found.alike) == len(found.found) == ALIKE
    assert found.alike[0] == (path, pytest.approx(1, abs=1e-6))  # itself
    assert set(dict(found.found)) <= set(looking.pictures())


def test_what_all_components_say_is_what_the_model_says(looking: Looking) -> None:
    path = looking.pictures()[3]
    looking.look(path, "place", "beach")
    ground = looking._ground
    assert ground is not None
    parts = looking._parts(ground, Image.open(path).convert("RGB"))
    place = ground.mapped.found.pictures.paths.index(path)
    assert np.allclose(parts.sum(0), ground.mapped.found.representation[place], atol=1e-4)
    assert np.allclose(parts, ground.mapped.found.parts[:, place], atol=1e-4)
    feature = named(ground.features, "place")
    one = next(row for row in looking._carried(ground, parts, feature, ground.features.index(feature)))
    at = [component.name for component in ground.mapped.found.components].index(one.component)
    mapped = ground.mapped.part(at)
    centred = feature.directions - feature.directions.mean(0)
    assert one.amount == pytest.approx(float((centred @ (mapped[place] - mapped.mean(0))).max()), abs=1e-4)


def test_what_was_made_once_is_kept(looking: Looking, folder: Path) -> None:
    looking.look(looking.pictures()[0], "style", "monet")
    [file] = folder.glob("alignment-*.safetensors")
    before = file.stat().st_mtime_ns
    again = looking_in(folder).look(looking.pictures()[0], "style", "monet")
    assert file.stat().st_mtime_ns == before
    assert again.carried == looking.look(looking.pictures()[0], "style", "monet").carried


def test_an_upload_and_a_text_of_ones_own(looking: Looking, tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 60).save(tmp_path / "noise.jpg")
    assert looking.look(tmp_path / "noise.jpg", "object", "a tree by the sea").heat.size == (SIZE, SIZE)


def test_what_cannot_be_looked_at(looking: Looking) -> None:
    with pytest.raises(DataError, match="no feature 'mood': choose among"):
        looking.look(looking.pictures()[0], "mood", "happy")
    with pytest.raises(DataError, match="there is no picture"):
        looking.look(None, "colour", "red")
    with pytest.raises(DataError, match="empty text"):
        looking.look(looking.pictures()[0], "colour", " ")


def test_the_table_is_escaped() -> None:
    assert "<i>" not in as_table([Carried("<i>", 0.5, "<i>", 0.1)])
