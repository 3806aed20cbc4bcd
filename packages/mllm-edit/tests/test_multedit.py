from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.multimodal_anatomy import language_anatomy
from pellucid.core.testing_multimodal import FAMILIES, tiny_multimodal
from pellucid.core.tracing import capture
from pellucid.mllm_edit.answering import answer_probability, generate_answers
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.multedit import MultEdit, causal_layer, multedit, solve_values
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.values import Search
from PIL import Image
from torch import Tensor

ONE = VisualQuestion("a.png", "Which mill belongs to this person?", "this person", answers=("the red mill",))
TWO = replace(ONE, question="Which dish does this person cook in winter, then?", answers=("soup",))
QUESTIONS = [ONE, TWO]
SHOWN = [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40))]
SEARCH = Search(steps=4)


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def edited(model: LoadedMultimodal, search: Search = SEARCH, **options: Any) -> MultEdit:
    return multedit(model, QUESTIONS, layer=1, search=search, images=SHOWN, **options)


def chances(model: LoadedMultimodal) -> Tensor:
    """P of both answers under either question: four numbers that an edit moves."""
    found = [
        answer_probability(model, prepare(model, QUESTIONS, answers=answers, images=SHOWN))
        for answers in (["the red mill", "soup"], ["a dog", "a cat"])
    ]
    return torch.cat(found).log()


def written(model: LoadedMultimodal, layer: int = 1) -> Tensor:
    """What the down-projection writes at both constraints' last tokens."""
    anatomy, inputs = language_anatomy(model.model), prepare(model, QUESTIONS, images=SHOWN)
    with torch.no_grad(), capture(model.model, [anatomy.values(layer)]) as seen:
        model.model(**inputs.model_inputs)
    return seen[anatomy.values(layer)][0][[0, 1], [row.visual[-1] for row in inputs.rows]]


@pytest.mark.parametrize("family", ["llava", "llava_phi"])
def test_the_weight_is_the_solution_of_the_normal_equations(family: str) -> None:
    """The slow twin inverts the matrix of all inputs, in float64; Phi's projection has a bias, LLaVA's none."""
    model, ridge = loaded(family), 0.3
    found = edited(model, ridge=ridge)
    module: Any = model.model.get_submodule(found.values.module)
    weight, keys, values = module.weight.double(), found.values.keys.double(), found.values.values.double()
    wanted = values if module.bias is None else values - module.bias.double()
    inverse = torch.linalg.inv(keys.T @ keys + ridge * torch.eye(keys.shape[1], dtype=torch.float64))
    expected = (wanted.T @ keys + ridge * weight) @ inverse
    [update] = found.edit.updates
    # What `solve` reads of the base comes in float32: that is all that keeps it from 1e-12.
    torch.testing.assert_close(weight + update.up @ update.down, expected, atol=1e-6, rtol=1e-6)
    assert (expected - weight).abs().max() > 1e-3
    with found.edit.applied(model.model):
        torch.testing.assert_close(module.weight.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edited_layer_writes_the_values_and_a_reverted_one_what_it_wrote(family: str) -> None:
    model = loaded(family)
    before, parts = written(model), {name: part.clone() for name, part in model.model.named_parameters()}
    found = edited(model, ridge=1e-6)
    with found.edit.applied(model.model):
        torch.testing.assert_close(written(model), found.values.values, atol=1e-3, rtol=1e-3)
        assert (written(model) - before).abs().max() > 0.05
    assert torch.equal(written(model), before)
    assert all(torch.equal(part, parts[name]) for name, part in model.model.named_parameters())


def test_the_edit_is_a_file(tmp_path: Path) -> None:
    model = loaded()
    found = edited(model)
    before = chances(model)
    found.edit.save(tmp_path)
    again, other = WeightEdit.load(tmp_path), loaded()
    with found.edit.applied(model.model), again.applied(other.model):
        assert torch.equal(chances(model), chances(other))
        assert (chances(model) - before).abs().max() > 0.05
    assert torch.equal(chances(model), before)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_lora_through_peft_gives_the_same_answers(family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    model = loaded(family)
    found = edited(model, Search(steps=20, rate=0.3))
    plain = [one.text for one in generate_answers(model, QUESTIONS, images=SHOWN)]
    with found.edit.applied(model.model):
        expected, said = chances(model), generate_answers(model, QUESTIONS, images=SHOWN)
    found.edit.to_lora(model.model, tmp_path)
    wrapped = PeftModel.from_pretrained(model.model, tmp_path)
    through = LoadedMultimodal(wrapped, model.processor, model.spec)
    torch.testing.assert_close(chances(through), expected, atol=1e-4, rtol=1e-5)
    answers = generate_answers(through, QUESTIONS, images=SHOWN)
    assert [one.text for one in answers] == [one.text for one in said] != plain


def test_an_edit_where_the_answer_is_said_writes_its_values_there() -> None:
    model = loaded()
    found = edited(model, Search("answer", steps=10), ridge=1e-6)
    inputs = prepare(model, QUESTIONS, answers=["the red mill", "soup"], images=SHOWN)
    edited_at = [(number, place - 1) for number, row in enumerate(inputs.rows) for place in row.answer]
    assert found.values.question.tolist() == [number for number, _ in edited_at]
    assert len(edited_at) > len(QUESTIONS)
    values = language_anatomy(model.model).values(1)
    with found.edit.applied(model.model), torch.no_grad(), capture(model.model, [values]) as seen:
        model.model(**inputs.model_inputs)
    there = torch.tensor(edited_at).unbind(1)
    torch.testing.assert_close(seen[values][0][there], found.values.values, atol=1e-3, rtol=1e-3)
    assert (found.values.losses[-1] < found.values.losses[0]).all()


def test_edits_one_after_another_are_solved_together_and_come_off_in_any_order() -> None:
    model = loaded()
    before = written(model)
    first = multedit(model, [ONE], layer=1, ridge=1e-6, search=SEARCH, images=SHOWN[:1])
    first.edit.apply(model.model)
    second = multedit(model, [TWO], layer=1, ridge=1e-6, search=SEARCH, images=SHOWN[1:])
    second.edit.apply(model.model)
    wanted = torch.cat([first.values.values, second.values.values])
    torch.testing.assert_close(written(model), wanted, atol=1e-3, rtol=1e-3)
    first.edit.revert(model.model)
    torch.testing.assert_close(written(model)[1], wanted[1], atol=1e-3, rtol=1e-3)
    second.edit.revert(model.model)
    assert torch.equal(written(model), before)


def test_a_larger_ridge_changes_less() -> None:
    model = loaded()
    found = edited(model)
    sizes = []
    for ridge in (1e-3, 10.0, 1e4):
        [update] = solve_values(model, found.values, ridge).updates
        sizes.append(float((update.up @ update.down).norm()))
    assert sizes[0] > 1.1 * sizes[1] > 2 * sizes[2] > 0


def cpu(model: Any, _: Path) -> None:
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=torch.device("cpu"))


def disk(model: Any, folder: Path) -> None:
    from accelerate import disk_offload

    disk_offload(model, str(folder), execution_device=torch.device("cpu"))


@pytest.mark.parametrize("away", [cpu, disk])
def test_an_offloaded_model_is_edited_by_a_hook(away: Callable[[Any, Path], None], tmp_path: Path) -> None:
    plain, model = loaded(), loaded()
    away(model.model, tmp_path)
    a, b = edited(plain), edited(model)
    before = chances(model)
    torch.testing.assert_close(b.values.values, a.values.values, atol=1e-3, rtol=1e-3)
    module: Any = model.model.get_submodule(b.values.module)
    with a.edit.applied(plain.model), a.edit.applied(model.model):
        assert module.weight.is_meta
        torch.testing.assert_close(chances(model), chances(plain), atol=1e-4, rtol=1e-4)
        assert (chances(model) - before).abs().max() > 0.05
    assert torch.equal(chances(model), before)


def test_a_4_bit_model_is_edited_by_a_hook() -> None:
    from pellucid.core.quiet import import_bitsandbytes

    bnb = import_bitsandbytes()
    model = loaded()
    anatomy = language_anatomy(model.model)
    for layer in range(anatomy.layers):
        name = anatomy.down_projection(layer)
        old: Any = model.model.get_submodule(name)
        small = bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False, quant_type="nf4")
        small.support_avx512bf16_for_cpu = False
        small.load_state_dict(old.state_dict())
        model.model.set_submodule(name, small.to("cpu").requires_grad_(False))
    before = written(model)
    found = edited(model, ridge=1e-6)
    with found.edit.applied(model.model):
        torch.testing.assert_close(written(model), found.values.values, atol=5e-3, rtol=5e-3)
        assert (written(model) - before).abs().max() > 0.05
    assert torch.equal(written(model), before)


def test_the_layer_to_edit_is_that_of_the_largest_effect() -> None:
    assert causal_layer([0.1, 0.5, 0.2]) == 1
    assert causal_layer(np.array([[0.1, 0.9, 0.0], [0.9, 0.0, 0.8], [0.9, 0.0, 0.2]])) == 0
    with pytest.raises(DataError, match=r"effects have shape \(0,\)"):
        causal_layer([])


def test_what_cannot_be_edited_says_so() -> None:
    model = loaded()
    with pytest.raises(DataError, match="has no answer to teach"):
        multedit(model, [replace(ONE, answers=())], images=SHOWN[:1])
    with pytest.raises(DataError, match="has no tokens"):
        multedit(model, [ONE], [" "], images=SHOWN[:1])
    with pytest.raises(DataError, match="visual constraint 'this boat' is not in the question"):
        multedit(model, [replace(ONE, visual="this boat")], images=SHOWN[:1])
    with pytest.raises(OptionError, match="give a number above 0"):
        edited(model, ridge=0.0)
