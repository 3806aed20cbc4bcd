from typing import Any

import pytest
import torch
from pellucid.core.errors import SiteError
from pellucid.core.multimodal_anatomy import language_anatomy, language_inputs
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.core.testing_multimodal import FAMILIES, LAYERS, tiny_multimodal
from pellucid.core.tracing import capture, find_module
from PIL import Image
from torch import nn

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def pictures() -> list[Image.Image]:
    """Two of different shapes."""
    return [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40))]


def inputs_of(processor: Any) -> dict[str, torch.Tensor]:
    tokenizer = processor.tokenizer
    qwen = "Qwen" in type(processor).__name__
    image = "<|vision_start|><|image_pad|><|vision_end|>" if qwen else "<image>"
    said = [f"{image} Which mill?", f"{image} Where does this person live, then?"]
    made = processor(images=pictures(), text=said, padding=True, return_tensors="pt")
    assert tokenizer.padding_side == "left"
    return dict(made)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_alone_is_what_the_whole_model_runs(family: str) -> None:
    """Embeddings, then decoder, then unembedding: the logits of the model as it is."""
    model, processor = tiny_multimodal(family)
    inputs = inputs_of(processor)
    anatomy = language_anatomy(model)
    given = language_inputs(anatomy, inputs)
    logits = model(**inputs, use_cache=False).logits
    assert given["inputs_embeds"].shape[:2] == inputs["input_ids"].shape
    torch.testing.assert_close(anatomy.unembed(anatomy.hidden(given)), logits, **TOLERANCE)
    # The pictures are in the embeddings: without them the logits are others.
    blind = given | {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    assert not torch.allclose(anatomy.unembed(anatomy.hidden(blind)), logits, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_each_layer(family: str) -> None:
    """MLP and attention outputs with the embeddings add up to the residual stream; W_proj maps keys to values."""
    model, processor = tiny_multimodal(family)
    anatomy = language_anatomy(model)
    assert anatomy.layers == LAYERS
    given = language_inputs(anatomy, inputs_of(processor))
    norm = [
        name
        for name, child in anatomy.language_model.named_children()
        if "norm" in name and not isinstance(child, list)
    ]
    sites = [site(layer) for layer in range(LAYERS) for site in (anatomy.attention, anatomy.mlp)]
    sites += [anatomy.keys(1), anatomy.values(1)]
    final: list[torch.Tensor] = []
    hook = find_module(anatomy.language_model, norm[-1]).register_forward_pre_hook(
        lambda _, args: final.append(args[0])
    )
    with capture(model, sites) as store:
        anatomy.hidden(given)
    hook.remove()
    total = given["inputs_embeds"] + sum(store[site][0] for site in sites[: 2 * LAYERS])
    torch.testing.assert_close(total, final[0], **TOLERANCE)
    projection = find_module(model, anatomy.down_projection(1))
    assert projection.weight.shape == (32, 48)
    torch.testing.assert_close(projection(store[anatomy.keys(1)][0]), store[anatomy.values(1)][0], **TOLERANCE)
    torch.testing.assert_close(store[anatomy.values(1)][0], store[anatomy.mlp(1)][0], **TOLERANCE)


@pytest.mark.parametrize("family", DECODERS)
def test_a_language_model_without_eyes(family: str) -> None:
    model = tiny_decoder(family)
    anatomy = language_anatomy(model)
    inputs = {"input_ids": torch.tensor([[3, 14, 15, 9, 26, 5]])}
    given = language_inputs(anatomy, inputs)
    torch.testing.assert_close(anatomy.unembed(anatomy.hidden(given)), model(**inputs).logits, **TOLERANCE)
    assert anatomy.attention_block(2).startswith("model.layers.2.")
    assert isinstance(find_module(model, anatomy.down_projection(0)), nn.Linear)


def test_what_is_not_there() -> None:
    model, _ = tiny_multimodal("llava")
    anatomy = language_anatomy(model)
    with pytest.raises(SiteError, match="has no layer 3: its language model has 3, from 0 on"):
        anatomy.down_projection(3)
    with pytest.raises(SiteError, match="Linear is no transformers model"):
        language_anatomy(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="no decoder of"):
        language_anatomy(model.model.vision_tower)
    del model.model.language_model.layers[0].mlp
    with pytest.raises(SiteError, match="layer 0 has 0 parts that are an MLP"):
        language_anatomy(model)


def test_the_hook_comes_off_when_the_model_fails() -> None:
    model, _ = tiny_multimodal("llava")
    anatomy = language_anatomy(model)
    with pytest.raises(IndexError):
        language_inputs(anatomy, {"input_ids": torch.tensor([[5000]])})
    ids = torch.tensor([[4, 5]])
    assert model(input_ids=ids).logits.shape[1] == 2
