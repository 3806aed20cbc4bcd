import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError
from pellucid.core.tracing import find_module
from pellucid.mllm_edit.contributions import Places, transfers
from torch import Tensor

IMAGE = 99
LAYERS = 3


@dataclass(frozen=True)
class Inside:
    """The names of a language model's parts within a LLaVA."""

    model: Any
    layers: int = LAYERS

    def attention_block(self, layer: int) -> str:
        return f"model.language_model.layers.{layer}.self_attn"

    def output_projection(self, layer: int) -> str:
        return f"{self.attention_block(layer)}.o_proj"


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    eyes = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlavaConfig(vision_config=eyes, text_config=text, image_token_index=IMAGE, image_seq_length=9)
        found = LlavaForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in found.named_parameters():
                if "norm" not in name:
                    weight.normal_(std=0.3)
    return found.eval().requires_grad_(False)


def batch() -> tuple[dict[str, Tensor], list[Places]]:
    """Two prompts, the second three tokens shorter: padding in front, nine image tokens, a constraint of two or one."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 90, (2, 20), generator=generator)
    ids[0, 2:11] = IMAGE
    ids[1, :3] = 0
    ids[1, 5:14] = IMAGE
    mask = (ids > 0).long()
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(2, 3, 12, 12, generator=generator),
    }
    return inputs, [Places(tuple(range(2, 11)), (13, 14), 19), Places(tuple(range(5, 14)), (16,), 19)]


def by_hand(model: Any, inputs: dict[str, Tensor], layer: int, row: int, query: int) -> Tensor:
    """The slow twin: contributions of all tokens to one, `(tokens, width)`, from the eager model's attention maps."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    values: list[Tensor] = []
    block = f"model.language_model.layers.{layer}.self_attn"
    find_module(twin, f"{block}.v_proj").register_forward_hook(lambda _, __, out: values.append(out[row]))
    weights = twin(**inputs, output_attentions=True).attentions[layer][row, :, query]
    out = find_module(twin, f"{block}.o_proj").weight
    total = torch.zeros(20, 32)
    for head in range(4):
        group = head // 2
        spread = values[0][:, 8 * group : 8 * group + 8] @ out[:, 8 * head : 8 * head + 8].T
        total += weights[head][:, None] * spread
    return total


def test_transfers_are_those_of_the_maps(model: Any) -> None:
    inputs, places = batch()
    found = transfers(model, Inside(model), inputs, places)
    logits = model(**inputs).logits
    for row, (one, place) in enumerate(zip(found, places, strict=True)):
        assert one.image_to_constraint.shape == (LAYERS, 9)
        assert one.confidence == pytest.approx(float(logits[row, -1].softmax(-1).max()), abs=1e-6)
        for layer in range(LAYERS):
            to_constraint = by_hand(model, inputs, layer, row, place.constraint[-1])
            to_last = by_hand(model, inputs, layer, row, place.last)
            close = {"atol": 1e-5, "rtol": 1e-5}
            image = to_constraint[list(place.image)]
            torch.testing.assert_close(one.image_to_constraint[layer], image.norm(dim=-1), **close)
            torch.testing.assert_close(one.image_together[layer], image.sum(0).norm(), **close)
            torch.testing.assert_close(one.constraint_to_last[layer], to_last[place.constraint[-1]].norm(), **close)
            torch.testing.assert_close(one.span_to_last[layer], to_last[list(place.constraint)].sum(0).norm(), **close)


def test_a_batch_is_as_one_at_a_time(model: Any) -> None:
    inputs, places = batch()
    together = transfers(model, Inside(model), inputs, places)
    for row, (one, place) in enumerate(zip(together, places, strict=True)):
        [alone] = transfers(model, Inside(model), {k: v[row : row + 1] for k, v in inputs.items()}, [place])
        torch.testing.assert_close(alone.image_to_constraint, one.image_to_constraint, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.span_to_last, one.span_to_last, atol=1e-5, rtol=1e-5)


def test_prompts_without_picture_or_constraint(model: Any) -> None:
    inputs, places = batch()
    with pytest.raises(DataError, match="row 1 of the batch has no token of a visual constraint"):
        transfers(model, Inside(model), inputs, [places[0], Places(places[1].image, (), 19)])
    with pytest.raises(DataError, match="row 0 of the batch has no token of an image"):
        transfers(model, Inside(model), inputs, [Places((), (13,), 19), places[1]])
