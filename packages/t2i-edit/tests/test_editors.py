"""The closed-form editors: what they solve, what they leave alone, and on which families they run."""

from typing import Any

import numpy as np
import pytest
import torch
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.edits import WeightEdit, find_part
from pellucid.core.errors import DataError, OptionError
from pellucid.core.generation import generate
from pellucid.core.testing_pipelines import PIPELINES, tiny_pipeline
from pellucid.core.text_anatomy import text_anatomies
from pellucid.t2i_edit.concepts import ConceptPrompts, concept_prompts
from pellucid.t2i_edit.locoedit import edit_all_layers, locoedit
from pellucid.t2i_edit.neurons import dropped, neuron_scores, top_neurons, z_scores
from pellucid.t2i_edit.positions import encoder_positions, text_positions
from pellucid.t2i_edit.quickfix import diff_quickfix
from pellucid.t2i_edit.subjects import last_subject_position
from pellucid.t2i_edit.text_keys import matched_places, projections, read_projections

STYLE = concept_prompts("van gogh", "style", objects=["a dog", "a cat", "a house"])
OTHER = concept_prompts("monet", "style", objects=["a dog", "a house"])
SAME = ConceptPrompts("monet", "style", ("a dog by monet", "a cat by monet"), ("a dog by monet", "a cat by monet"))


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline("sd").to(torch.float64)  # so that twins agree far below the tolerances


def _drawn(pipe: Any, prompts: list[str]) -> np.ndarray:
    found: np.ndarray = generate(pipe, encode(pipe, prompts), [0] * len(prompts), steps=2, guidance=3.0)
    return found


def test_the_text_of_a_unet_is_what_its_projections_read(pipe: Any) -> None:
    prompts = list(STYLE.prompts)
    places = [text_positions(pipe, prompt, "van gogh") for prompt in prompts]
    names = projections(pipe, [0, 2])
    found = read_projections(pipe, names, prompts, places)
    said = encode(pipe, prompts).arguments["prompt_embeds"].double()
    for name in names:
        module = find_part(pipe, f"unet.{name}")
        for row, (place,) in enumerate(places):
            assert torch.allclose(found[name][0][row], said[row, place], atol=1e-6)
            assert torch.allclose(found[name][1][row], module.weight.double() @ said[row, place], atol=1e-5)


def test_locoedit_is_the_minimiser_of_its_problem(pipe: Any) -> None:
    """The slow twin: normal equations with a d x d inverse, per projection (thesis 5.9.1)."""
    edit = locoedit(pipe, [STYLE], [1, 2], ridge=0.1)
    old, new = matched_places(pipe, [STYLE], False)
    names = projections(pipe, [1, 2])
    keys = read_projections(pipe, names, STYLE.prompts, old)
    values = read_projections(pipe, names, STYLE.targets, new)
    for name, update in zip(names, edit.updates, strict=True):
        weight = find_part(pipe, f"unet.{name}").weight.double()
        x, y = keys[name][0], values[name][1]
        slow = (weight * 0.1 + y.T @ x) @ torch.linalg.inv(0.1 * torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x)
        assert torch.allclose(weight + update.up @ update.down, slow, atol=1e-9)
        assert len(update.keys) == len(STYLE)


def test_quickfix_is_the_minimiser_of_its_problem_without_the_bias(pipe: Any) -> None:
    (anatomy,) = text_anatomies(pipe)
    edit = diff_quickfix(pipe, [STYLE], ridge=0.1)
    (update,) = edit.updates
    module = find_part(pipe, update.module)
    keys, values = [], []
    for texts, words, kept in ((STYLE.prompts, ["van gogh"] * 3, keys), (STYLE.targets, STYLE.replacements, values)):
        for text, word in zip(texts, words, strict=True):
            seen: list[Any] = []
            hook = module.register_forward_hook(lambda _, args, out, seen=seen: seen.append((args[0], out)))
            encode(pipe, [text], negative=None)
            hook.remove()
            place = last_subject_position(pipe.tokenizer, text, word)
            kept.append(seen[0][0 if kept is keys else 1][0, place].double())
    x, y = torch.stack(keys), torch.stack(values) - module.bias.double()
    weight = module.weight.double()
    slow = (0.1 * weight + y.T @ x) @ torch.linalg.inv(0.1 * torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x)
    assert torch.allclose(weight + update.up @ update.down, slow, atol=1e-6)
    assert anatomy.out_projection(0) in update.module


@pytest.mark.parametrize("make", [lambda pipe, some: locoedit(pipe, some, [0, 1]), diff_quickfix, edit_all_layers])
def test_a_concept_mapped_onto_itself_changes_nothing(pipe: Any, make: Any) -> None:
    edit = make(pipe, [SAME])
    for update in edit.updates:
        assert (update.up @ update.down).abs().max() < 1e-5


def test_an_edit_brings_the_concepts_text_to_its_target(pipe: Any) -> None:
    names = projections(pipe, [0])
    old, new = matched_places(pipe, [STYLE], False)
    wanted = read_projections(pipe, names, STYLE.targets, new)
    with locoedit(pipe, [STYLE], [0], ridge=1e-6).applied(pipe):
        found = read_projections(pipe, names, STYLE.prompts, old)
    for name in names:
        assert torch.allclose(found[name][1], wanted[name][1], atol=1e-2)


def test_following_maps_the_tokens_after_the_concept_too(pipe: Any) -> None:
    old, new = matched_places(pipe, [STYLE], True)
    length = encode(pipe, [STYLE.prompts[0]]).arguments["prompt_embeds"].shape[1]
    for here, there, prompt, target, words in zip(
        old, new, STYLE.prompts, STYLE.targets, STYLE.replacements, strict=True
    ):
        assert here[0] == last_subject_position(pipe.tokenizer, prompt, "van gogh")
        assert there[0] == last_subject_position(pipe.tokenizer, target, words)
        assert len(here) == len(there) == length - max(here[0], there[0])
        assert np.diff(here).tolist() == [1] * (len(here) - 1)


def test_preserved_concepts_move_less(pipe: Any) -> None:
    names = projections(pipe, [0])
    places = matched_places(pipe, [OTHER], False)[0]
    before = read_projections(pipe, names, OTHER.prompts, places)
    moved = []
    for kept in ((), (OTHER,)):
        with locoedit(pipe, [STYLE], [0], ridge=1e-3, preserved=kept).applied(pipe):
            after = read_projections(pipe, names, OTHER.prompts, places)
        moved.append(sum((after[name][1] - before[name][1]).norm().item() for name in names))
    assert moved[1] < 0.5 * moved[0]


def test_edits_compose_undo_and_travel(pipe: Any, tmp_path: Any) -> None:
    prompts = [STYLE.prompts[0], OTHER.prompts[0]]
    clean = _drawn(pipe, prompts)
    one, two = (locoedit(pipe, [concept], [0, 1, 2]) for concept in (STYLE, OTHER))
    both = locoedit(pipe, [STYLE, OTHER], [0, 1, 2])
    with both.applied(pipe):
        together = _drawn(pipe, prompts)
    assert (together != clean).any()
    (one + two).save(tmp_path / "edit.safetensors")
    with WeightEdit.load(tmp_path / "edit.safetensors").applied(pipe):
        assert np.abs(_drawn(pipe, prompts).astype(int) - together).max() <= 1
    assert np.array_equal(_drawn(pipe, prompts), clean)
    with (one + two - two).applied(pipe):
        alone = _drawn(pipe, prompts)
    with one.applied(pipe):
        assert np.array_equal(_drawn(pipe, prompts), alone)


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.filterwarnings("ignore:.*single-stream.*")
def test_locoedit_runs_on_every_family(family: str) -> None:
    pipe = tiny_pipeline(family)
    concept = concept_prompts("monet", "style", objects=["a dog", "a cat"])
    prompts = [concept.prompts[0]]
    clean = _drawn(pipe, prompts)
    edit = locoedit(pipe, [concept], [0, 1])
    assert len(edit.updates) == 4
    with edit.applied(pipe):
        assert (_drawn(pipe, prompts) != clean).any()
    assert np.array_equal(_drawn(pipe, prompts), clean)
    assert encoder_positions(pipe, prompts[0], "monet").keys() == {found.component for found in text_anatomies(pipe)}


@pytest.mark.parametrize("family", PIPELINES)
def test_quickfix_runs_where_there_is_a_clip_text_encoder(family: str) -> None:
    pipe = tiny_pipeline(family)
    clips = [found for found in text_anatomies(pipe) if found.causal]
    if not clips:
        with pytest.raises(OptionError, match="no CLIP text encoder"):
            diff_quickfix(pipe, [OTHER])
        return
    edit = diff_quickfix(pipe, [OTHER])
    assert len(edit.updates) == len(clips)
    clean = _drawn(pipe, [OTHER.prompts[0]])
    with edit.applied(pipe):
        assert (_drawn(pipe, [OTHER.prompts[0]]) != clean).any()


def test_what_cannot_be_edited_is_refused(pipe: Any) -> None:
    layers = len(denoiser_anatomy(pipe).cross_attentions)
    with pytest.raises(OptionError, match=f"no cross-attention layer {layers}: there are {layers}"):
        locoedit(pipe, [STYLE], [layers])
    with pytest.raises(OptionError, match="give one or more"):
        locoedit(pipe, [STYLE], [])
    with pytest.raises(OptionError, match="no concept"):
        locoedit(pipe, [], [0])
    with pytest.raises(OptionError, match="has no layer 9"):
        diff_quickfix(pipe, [STYLE], layer=9)


def test_z_scores_by_hand() -> None:
    there = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 2.0]]).double()
    gone = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, 1.0]]).double()
    assert z_scores(there, gone).tolist() == [pytest.approx(1 / 2**0.5), 0.0, float("inf")]


def test_dropped_neurons_are_zero_and_come_back(pipe: Any) -> None:
    scores = neuron_scores(pipe, STYLE, [0, 1])
    chosen = top_neurons(scores, 5)
    for name, found in chosen.items():
        rest = np.setdiff1d(np.arange(len(scores[name])), found.numpy())
        assert scores[name][found].abs().min() >= scores[name][rest].abs().max()
    clean = _drawn(pipe, [STYLE.prompts[0]])
    seen: list[torch.Tensor] = []
    name = next(iter(chosen))
    with dropped(pipe, chosen):
        hook = pipe.unet.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out))
        assert (_drawn(pipe, [STYLE.prompts[0]]) != clean).any()
        hook.remove()
    assert all((out[..., chosen[name]] == 0).all() for out in seen)
    assert np.array_equal(_drawn(pipe, [STYLE.prompts[0]]), clean)
    with pytest.raises(OptionError, match="channels, give 1 to"):
        top_neurons(scores, 10_000)
    with pytest.raises(DataError, match="give two or more"):
        neuron_scores(pipe, STYLE.take([0]), [0])
