from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError, SiteError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import LAYERS, tiny_multimodal
from pellucid.mllm_edit.answering import answer_log_probability
from pellucid.mllm_edit.fine_tuning import fine_tune
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.questions import VisualQuestion
from PIL import Image
from torch import Tensor

ONE = VisualQuestion("a.png", "Which mill belongs to this person?", "this person", answers=("the red mill",))
TWO = replace(ONE, question="Which dish does this person cook in winter, then?", answers=("soup",))
QUESTIONS = [ONE, TWO]
SHOWN = [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40))]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def loss(model: LoadedMultimodal) -> Tensor:
    answers = [question.answers[0] for question in QUESTIONS]
    return -answer_log_probability(model, prepare(model, QUESTIONS, answers=answers, images=SHOWN)).mean()


@pytest.mark.parametrize("family", ["llava", "llava_phi", "qwen2_vl"])
def test_it_is_adam_on_the_layers_with_the_whole_models_loss(family: str) -> None:
    """The slow twin: the whole model, picture and all, at every step."""
    model, slow = loaded(family), loaded(family)
    found = fine_tune(model, QUESTIONS, layers=[1], steps=3, rate=1e-3, images=SHOWN)
    trained = {name: part for name, part in slow.model.named_parameters() if ".layers.1." in name and "vis" not in name}
    optimiser = torch.optim.Adam([part.requires_grad_(True) for part in trained.values()], 1e-3)
    for step in range(3):
        optimiser.zero_grad()
        value = loss(slow)
        assert found.losses[step] == pytest.approx(float(value.detach()), rel=1e-4)
        value.backward()
        optimiser.step()
    assert found.weights.keys() == trained.keys()
    for name, weight in found.weights.items():
        # Where a gradient is nearly 0, Adam's first step is its sign: rounding may turn it.
        assert (weight - trained[name]).abs().median() < 1e-6
    assert found.touched == sum(part.numel() for part in trained.values())
    assert found.losses[-1] < found.losses[0]


def test_weights_are_used_within_the_block_only() -> None:
    model = loaded()
    before = {name: part.clone() for name, part in model.model.named_parameters()}
    found = fine_tune(model, QUESTIONS, steps=2, images=SHOWN)
    assert {name.split(".layers.")[1].split(".")[0] for name in found.weights} == set(map(str, range(LAYERS)))
    assert all("language_model.layers" in name for name in found.weights)
    for _ in range(2):
        for name, part in model.model.named_parameters():
            assert torch.equal(part, before[name])
            assert not part.requires_grad
            assert part.grad is None
        with found.applied(model.model):
            assert float(loss(model)) == pytest.approx(found.losses[-1], rel=1e-4)


def test_no_weight_leaves_its_bound() -> None:
    model = loaded()
    free, bound = (fine_tune(model, QUESTIONS, steps=4, rate=1e-2, bound=b, images=SHOWN) for b in (None, 1e-3))
    held = dict(model.model.named_parameters())
    assert max(float((weight - held[name]).abs().max()) for name, weight in free.weights.items()) > 1e-2
    assert max(float((weight - held[name]).abs().max()) for name, weight in bound.weights.items()) < 1.001e-3
    assert bound.losses[-1] > free.losses[-1]


def test_a_later_training_goes_on_from_an_earlier_one() -> None:
    model = loaded()
    first = fine_tune(model, [ONE], steps=2, images=SHOWN[:1])
    with first.applied(model.model):
        second = fine_tune(model, [TWO], steps=2, images=SHOWN[1:])
        inside = float(loss(model))
        with second.applied(model.model):
            assert float(loss(model)) != pytest.approx(inside, rel=1e-3)
        assert float(loss(model)) == pytest.approx(inside, rel=1e-6)


def test_what_cannot_be_trained_says_so() -> None:
    from accelerate import cpu_offload

    model = loaded()
    for options, said in (
        ({"steps": 0}, "steps=0"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"bound": -1.0}, "bound=-1.0"),
        ({"layers": []}, "no layer is to be trained"),
    ):
        with pytest.raises(OptionError, match=said):
            fine_tune(model, QUESTIONS, images=SHOWN, **options)
    with pytest.raises(SiteError, match="has no layer 7"):
        fine_tune(model, QUESTIONS, layers=[7], images=SHOWN)
    with pytest.raises(DataError, match="has no answer to teach"):
        fine_tune(model, [replace(ONE, answers=())], images=SHOWN[:1])
    head: Any = model.model.get_output_embeddings()
    head.weight.data[5] = torch.nan
    with pytest.raises(DataError, match="the loss is nan at step 0: give a lower rate than"):
        fine_tune(model, QUESTIONS, images=SHOWN)
    cpu_offload(model.model, execution_device=torch.device("cpu"))
    with pytest.raises(ModelError, match="is offloaded and cannot be trained"):
        fine_tune(model, QUESTIONS, images=SHOWN)
