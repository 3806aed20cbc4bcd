from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import FAMILIES, tiny_multimodal
from pellucid.mllm_edit.corruption import noise_probe, replacement_probe, same_length_phrase, substituted
from pellucid.mllm_edit.inputs import Row, tokenizer_of
from pellucid.mllm_edit.questions import VisualQuestion
from PIL import Image

QUESTION = VisualQuestion(
    "a.png", "Which dish does this person cook in winter?", "this person", ("winter",), ("soup",), entity="the baron"
)
SHOWN = [Image.effect_noise((31, 20), 80).convert("RGB")]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def words(model: LoadedMultimodal, row: Row, places: tuple[int, ...]) -> str:
    """The text of some tokens, by writing the prompt again without its picture's many tokens."""
    ids = tokenizer_of(model)(row.text)["input_ids"]
    gap = len(row.image) - 1
    return str(tokenizer_of(model).decode([ids[place - gap] for place in places]))


def test_constraints_in_other_words() -> None:
    both = substituted(QUESTION, {"this person": "the winter king", "winter": "this person"})
    assert both.question == "Which dish does the winter king cook in this person?"
    assert (both.visual, both.textual) == ("the winter king", ("this person",))
    with pytest.raises(DataError, match="'that' is no constraint"):
        substituted(QUESTION, {"that": "Paris"})
    for phrase in ("", "winter"):
        with pytest.raises(DataError, match="cannot stand for 'winter'"):
            substituted(QUESTION, {"winter": phrase})
    with pytest.raises(OptionError, match="give phrases"):
        replacement_probe(loaded(), QUESTION, "soup", {}, images=SHOWN)


def test_a_phrase_of_as_many_tokens() -> None:
    model = loaded()
    count = len(tokenizer_of(model)(" this person")["input_ids"])
    offered = ["this person", "the baron", "the Taj Mahal and the old tower", "Paris", "the tower"]
    found = same_length_phrase(model, QUESTION, offered)
    fitting = [
        one
        for one in offered
        if one not in ("this person", "the baron") and len(tokenizer_of(model)(f" {one}")["input_ids"]) == count
    ]
    assert found == fitting[0]
    assert same_length_phrase(model, QUESTION, offered[:3]) is None
    probe = replacement_probe(model, QUESTION, "soup", {"this person": found}, images=SHOWN)
    tokens = probe.clean["inputs_embeds"].shape[1]
    assert probe.partners == {place: place for place in range(tokens)}
    differing = (probe.clean["inputs_embeds"] != probe.corrupted["inputs_embeds"]).any(-1)[0].nonzero().flatten()
    assert set(differing.tolist()) <= set(probe.row.visual)
    assert len(differing) > 0


@pytest.mark.parametrize("phrase", ["Anna", "the old tower in Paris", "the Taj Mahal"])
def test_phrases_of_other_lengths_are_aligned(phrase: str) -> None:
    model = loaded()
    chosen = {"this person": phrase, "winter": "summer autumn"}
    probe = replacement_probe(model, QUESTION, "soup", chosen, images=SHOWN)
    clean, corrupted, pairs = probe.clean_row, probe.row, probe.partners
    assert words(model, corrupted, corrupted.visual) == f" {phrase}"
    assert pairs[corrupted.last] == clean.last
    assert [pairs[place] for place in corrupted.answer] == list(clean.answer)
    assert pairs[corrupted.visual[-1]] == clean.visual[-1]
    assert pairs[corrupted.textual[0][-1]] == clean.textual[0][-1]
    assert len(set(pairs.values())) == len(pairs)
    constrained = {*corrupted.visual, *corrupted.textual[0]}
    for ours, theirs in pairs.items():
        if ours not in constrained:
            same = probe.corrupted["inputs_embeds"][0, ours] == probe.clean["inputs_embeds"][0, theirs]
            assert same.all()
    unpaired = set(range(corrupted.answer[-1] + 1)) - set(pairs)
    assert unpaired <= constrained


def test_constraints_that_share_a_token() -> None:
    question = replace(QUESTION, textual=("person",))
    with pytest.raises(DataError, match="share tokens"):
        replacement_probe(loaded(), question, "soup", {"this person": "a person"}, images=SHOWN)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_falls_on_the_picture_and_its_constraint(family: str) -> None:
    model = loaded(family)
    made: dict[str, Any] = {"noise": 3.0, "draws": 40, "images": SHOWN}
    probe = noise_probe(model, QUESTION, "soup", seed=1, **made)
    clean, noisy = probe.clean["inputs_embeds"], probe.corrupted["inputs_embeds"]
    noised = {*probe.row.image, *probe.row.visual}
    differing = (clean != noisy).flatten(2).any(-1).any(0).nonzero().flatten().tolist()
    assert set(differing) == noised
    for group in (probe.row.image, probe.row.visual):
        part = clean[0, list(group)]
        added = noisy[:, list(group)] - part
        assert float(added.std() / part.std(correction=0)) == pytest.approx(3.0, rel=0.1)
    again = noise_probe(model, QUESTION, "soup", seed=1, **made).corrupted["inputs_embeds"]
    assert torch.equal(again, noisy)
    assert not torch.equal(noise_probe(model, QUESTION, "soup", seed=2, **made).corrupted["inputs_embeds"], noisy)
    whole = noise_probe(model, QUESTION, "soup", textual=True, **made).corrupted["inputs_embeds"]
    assert (whole[:, list(probe.row.textual[0])] != clean[:, list(probe.row.textual[0])]).all()


def test_noise_that_makes_no_sense() -> None:
    model = loaded()
    for options in ({"noise": 0.0}, {"draws": 0}):
        with pytest.raises(OptionError, match="give both above 0"):
            noise_probe(model, QUESTION, "soup", images=SHOWN, **options)  # type: ignore[arg-type]
    bare = VisualQuestion("", "Which mill?", "", answers=("soup",))
    with pytest.raises(DataError, match="neither picture nor constraint"):
        noise_probe(model, bare, "soup")
