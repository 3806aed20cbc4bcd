from dataclasses import replace

import numpy as np
import pytest
import torch
from pellucid.compose import latents as module
from pellucid.compose.captioned import CaptionedImage
from pellucid.compose.denoising import encode_captions, picture_latents
from pellucid.compose.latents import ENCODED, dataset_digest, encode_dataset, load_encoded
from pellucid.core.errors import DataError, ModelError
from pellucid.core.testing_pipelines import tiny_pipeline
from PIL import Image

CAPTIONS = ["a red cat", "a blue dog", "a red cat", "a green car", "a blue dog"]


@pytest.fixture
def captioned(tmp_path):
    random, items = np.random.default_rng(0), []
    for number, caption in enumerate(CAPTIONS):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        items.append(CaptionedImage(str(path), caption, f"p{number}"))
    return items


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "pixart", "if"])
def test_what_is_kept_is_what_encoding_one_by_one_gives(family, captioned, tmp_path):
    pipe = tiny_pipeline(family)
    encoded = encode_dataset(pipe, captioned, tmp_path / "out", batch=2)
    assert (len(encoded), encoded.captions) == (5, ("a red cat", "a blue dog", "a green car"))
    assert encoded.rows.tolist() == [0, 1, 0, 2, 1]
    for number, item in enumerate(captioned):
        alone = picture_latents(pipe, [Image.open(item.image)])[0]
        torch.testing.assert_close(encoded.latents[number], alone, rtol=1e-4, atol=1e-4)
        said = encode_captions(pipe, [item.caption])
        for name, part in encoded.said.take(encoded.rows[[number]]).parts.items():
            torch.testing.assert_close(part, said.parts[name], rtol=1e-4, atol=1e-4)
    again = load_encoded(tmp_path / "out")
    assert torch.equal(again.latents, encoded.latents)
    assert again.said.parts.keys() == encoded.said.parts.keys()
    assert all(torch.equal(part, encoded.said.parts[name]) for name, part in again.said.parts.items())
    assert (again.ids, again.captions, again.digest) == (encoded.ids, encoded.captions, encoded.digest)


def test_nothing_is_encoded_twice(captioned, tmp_path, monkeypatch):
    pipe, calls = tiny_pipeline("sd"), []

    def counted(pipe, pictures, batch):
        calls.append(len(pictures))
        return picture_latents(pipe, pictures, batch)

    monkeypatch.setattr(module, "picture_latents", counted)
    first = encode_dataset(pipe, captioned, tmp_path / "out")
    second = encode_dataset(pipe, captioned, tmp_path / "out")
    assert calls == [5]
    assert torch.equal(first.latents, second.latents)
    encode_dataset(pipe, captioned[:4], tmp_path / "out")  # other data: replaced
    assert calls == [5, 4]
    (tmp_path / "out" / ENCODED).write_bytes(b"damaged")
    encode_dataset(pipe, captioned[:4], tmp_path / "out")
    assert calls == [5, 4, 4]


def test_the_digest_tells_pictures_captions_and_encoders_apart(captioned, tmp_path):
    pipe = tiny_pipeline("sd")
    digest = dataset_digest(pipe, captioned)
    assert dataset_digest(tiny_pipeline("sd"), captioned) == digest
    assert dataset_digest(tiny_pipeline("sd", seed=1), captioned) != digest
    assert dataset_digest(pipe, captioned[::-1]) != digest
    assert dataset_digest(pipe, [replace(captioned[0], caption="a dog"), *captioned[1:]]) != digest
    pipe.unet.conv_in.weight.data.zero_()  # the denoiser encodes nothing
    assert dataset_digest(pipe, captioned) == digest
    pipe.text_encoder.final_layer_norm.bias.data += 1
    assert dataset_digest(pipe, captioned) != digest
    Image.new("RGB", (16, 16)).save(captioned[0].image)
    assert dataset_digest(tiny_pipeline("sd"), captioned) != digest


def test_a_choice_of_pictures(captioned, tmp_path):
    encoded = encode_dataset(tiny_pipeline("sd"), captioned, tmp_path / "out")
    some = encoded.take([4, 0])
    assert torch.equal(some.latents, encoded.latents[[4, 0]])
    assert (some.ids, some.rows.tolist()) == (("p4", "p0"), [1, 0])
    assert some.digest != encoded.digest
    assert encoded.of_caption("a blue dog").tolist() == [1, 4]
    with pytest.raises(DataError, match="captioned 'a tree'"):
        encoded.of_caption("a tree")


def test_what_cannot_be_encoded_is_told(captioned, tmp_path):
    pipe = tiny_pipeline("sd")
    with pytest.raises(DataError, match="no captioned pictures"):
        encode_dataset(pipe, [], tmp_path / "out")
    with pytest.raises(DataError, match=r"lost\.png cannot be read"):
        encode_dataset(pipe, [replace(captioned[0], image=str(tmp_path / "lost.png"))], tmp_path / "out")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png cannot be read"):
        encode_dataset(pipe, [replace(captioned[0], image=str(tmp_path / "text.png"))], tmp_path / "out")
    with pytest.raises(DataError, match="encode the pictures with encode_dataset first"):
        load_encoded(tmp_path)
    (tmp_path / ENCODED).write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        load_encoded(tmp_path)
    pipe.vae.to("meta")
    with pytest.raises(ModelError, match="is offloaded"):
        dataset_digest(pipe, captioned)
