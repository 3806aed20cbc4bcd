from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.core.pictures import open_picture, picture_file
from pellucid.core.sweeps.keys import digest
from PIL import Image


@pytest.fixture
def drawn() -> Image.Image:
    return Image.effect_noise((31, 20), 80).convert("RGB")


def test_pictures_come_as_red_green_and_blue(tmp_path: Path, drawn: Image.Image) -> None:
    drawn.convert("P").save(tmp_path / "palette.png")
    drawn.convert("L").save(tmp_path / "grey.jpg")
    assert open_picture(tmp_path / "palette.png").mode == open_picture(str(tmp_path / "grey.jpg")).mode == "RGB"


def test_pictures_stand_upright(tmp_path: Path, drawn: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6  # "turn me a quarter to the right"
    drawn.save(tmp_path / "lying.png", exif=exif)
    assert open_picture(tmp_path / "lying.png").size == (20, 31)


def test_files_are_known_by_their_content(tmp_path: Path, drawn: Image.Image) -> None:
    for name in ("a.png", "b.png"):
        drawn.save(tmp_path / name)
    drawn.convert("L").save(tmp_path / "c.png")
    first, again, other = (picture_file(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert first == again != other
    assert (digest(first), first.path) == (digest(again), str(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"d\.png cannot be read \(FileNotFoundError\)"):
        picture_file(tmp_path / "d.png")


def test_pictures_that_cannot_be_read(tmp_path: Path, drawn: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    text, cut = tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("no picture")
    drawn.save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    for path in (text, cut, tmp_path, tmp_path / "missing.png"):
        with pytest.raises(DataError, match="cannot be read") as raised:
            open_picture(path)
        assert "\n" not in str(raised.value)
    drawn.save(tmp_path / "whole.png")
    monkeypatch.setattr("pellucid.core.pictures.MOST_PIXELS", 100)
    with pytest.raises(DataError, match="31 x 20 pixels, more than 100"):
        open_picture(tmp_path / "whole.png")
