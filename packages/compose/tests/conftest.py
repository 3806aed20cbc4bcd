import json

import numpy as np
import pytest
from pellucid.core.testing_clips import tiny_clip
from PIL import Image


@pytest.fixture(scope="session")
def make_clip():
    """A maker of tiny random CLIPs by kind."""
    return tiny_clip


@pytest.fixture(scope="session")
def pictures():
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in range(12)]


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory, pictures):
    """Twelve pictures of noise with captions, as `captions.jsonl`."""
    folder = tmp_path_factory.mktemp("captioned")
    colours, things = ("red", "blue", "green"), ("dog", "car", "tree", "clock")
    with (folder / "captions.jsonl").open("w") as file:
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number}.png")
            caption = f"a {colours[number % 3]} {things[number % 4]}"
            file.write(json.dumps({"image": f"{number}.png", "caption": caption}) + "\n")
    return folder
