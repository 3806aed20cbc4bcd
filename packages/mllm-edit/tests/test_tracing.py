from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import FAMILIES, LAYERS, tiny_multimodal
from pellucid.core.tracing import capture, patch
from pellucid.mllm_edit.corruption import TraceProbe, noise_probe, replacement_probe, substituted
from pellucid.mllm_edit.inputs import Inputs, prepare
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.tracing import (
    KINDS,
    Group,
    Restoration,
    default_window,
    layer_windows,
    multimodal_causal_trace,
    restored_probabilities,
    token_groups,
)
from PIL import Image
from torch import Tensor

QUESTION = VisualQuestion("a.png", "Which dish does this person cook in winter?", "this person", ("winter",), ("soup",))
SHOWN = [Image.effect_noise((31, 20), 80).convert("RGB")]
PHRASES = {"same length": "Paris", "longer": "the Taj Mahal", "shorter": "Anna"}
WORDS = [" the", " dish", " mill", " red", " soup", " dog", " Paris", " winter", " person", " tower"]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def likely(model: LoadedMultimodal) -> str:
    """The likeliest of some words, so that probabilities are well above rounding."""
    tokenizer: Any = model.processor.tokenizer  # type: ignore[attr-defined]
    inputs = prepare(model, [QUESTION], images=SHOWN).model_inputs
    logits = model.model(**inputs).logits[0, -1]
    return max(WORDS, key=lambda word: float(logits[tokenizer(word)["input_ids"][0]])).strip()


def probe_of(model: LoadedMultimodal, corruption: str) -> TraceProbe:
    if corruption == "noise":
        return noise_probe(model, QUESTION, likely(model), noise=1.0, draws=2, seed=3, images=SHOWN)
    return replacement_probe(model, QUESTION, likely(model), {"this person": PHRASES[corruption]}, images=SHOWN)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("corruption", ["same length", "noise"])
@pytest.mark.parametrize("share", [True, False])
def test_everything_restored_is_clean_and_nothing_restored_is_corrupted(
    family: str, corruption: str, share: bool
) -> None:
    probe = probe_of(loaded(family), corruption)
    everywhere = tuple(range(probe.corrupted["inputs_embeds"].shape[1]))
    jobs = [Restoration(KINDS, range(LAYERS), everywhere), Restoration(KINDS, range(LAYERS), ())]
    clean, corrupted, restored = restored_probabilities(probe, jobs, embeddings=True, share=share)
    assert float(restored[0]) == pytest.approx(clean, abs=1e-5, rel=1e-4)
    assert float(restored[1]) == pytest.approx(corrupted, abs=1e-5, rel=1e-4)
    assert abs(clean - corrupted) > 1e-2 * clean


def by_hand(model: LoadedMultimodal, phrase: str, kind: str, layers: range, positions: tuple[int, ...]) -> float:
    """The slow twin: the whole model with its picture, once clean, once corrupted, nothing shared, one job."""
    both: list[Inputs] = [
        prepare(model, [one], answers=[likely(model)], images=SHOWN)
        for one in (QUESTION, substituted(QUESTION, {"this person": phrase}))
    ]
    probe = replacement_probe(model, QUESTION, likely(model), {"this person": phrase}, images=SHOWN)
    sites = [(probe.anatomy.mlp if kind == "mlp" else probe.anatomy.attention)(layer) for layer in layers]
    with capture(model.model, sites) as clean:
        model.model(**both[0].model_inputs, use_cache=False)

    def restore(site: Any) -> Any:
        def change(value: Tensor, _: int) -> Tensor:
            value = value.clone()
            for place in positions:
                if place in probe.partners:
                    value[0, place] = clean[site][0][0, probe.partners[place]]
            return value

        return change

    with patch(model.model, {site: restore(site) for site in sites}):
        logits = model.model(**both[1].model_inputs, use_cache=False).logits[0]
    row, total = both[1].rows[0], 1.0
    for place, token in zip(row.answer, row.answer_ids, strict=True):
        total *= float(logits[place - 1].softmax(-1)[token])
    return total


@pytest.mark.parametrize(
    ("family", "corruption"),
    [
        ("llava", "same length"),
        ("llava", "longer"),
        ("llava_phi", "shorter"),
        ("qwen2_vl", "longer"),
        ("smolvlm", "shorter"),
    ],
)
def test_all_windows_at_once_are_one_at_a_time(family: str, corruption: str) -> None:
    model = loaded(family)
    probe = probe_of(model, corruption)
    groups = token_groups(probe.row)
    lengths = [len(row.visual) for row in (probe.clean_row, probe.row)]
    assert (lengths[1] > lengths[0], lengths[1] < lengths[0]) == (corruption == "longer", corruption == "shorter")
    trace = multimodal_causal_trace(probe, window=2)
    assert trace.windows == ((0, 1), (0, 2), (1, 3))
    for kind in KINDS:
        for number, group in enumerate(groups):
            for place, (first, stop) in enumerate(trace.windows):
                slow = by_hand(model, PHRASES[corruption], kind, range(first, stop), group.positions)
                assert float(trace.restored[kind][number, place]) == pytest.approx(slow, abs=1e-6, rel=1e-4)
    assert trace.effect("mlp").abs().max() > 1e-3 * trace.corrupted


@pytest.mark.parametrize("corruption", ["same length", "noise"])
def test_neither_rows_nor_sharing_change_results(corruption: str) -> None:
    probe = probe_of(loaded(), corruption)
    jobs = [
        Restoration((kind,), window, group.positions)
        for kind in KINDS
        for group in token_groups(probe.row)
        for window in layer_windows(LAYERS, 1)
    ]
    base = restored_probabilities(probe, jobs)
    for options in ({"rows": 1}, {"rows": 7}, {"share": False}):
        other = restored_probabilities(probe, jobs, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(other[2], base[2], atol=1e-7, rtol=1e-4)
        assert other[:2] == pytest.approx(base[:2], rel=1e-4)


def test_noise_is_averaged_over_its_draws() -> None:
    model = loaded()
    probe = noise_probe(model, QUESTION, "soup", draws=3, images=SHOWN)
    job = Restoration(("mlp",), range(2), probe.row.image)
    _, corrupted, restored = restored_probabilities(probe, [job])
    alone = []
    for draw in range(3):
        one = replace(probe, corrupted={"inputs_embeds": probe.corrupted["inputs_embeds"][draw : draw + 1]})
        alone.append(restored_probabilities(one, [job]))
    assert corrupted == pytest.approx(sum(found[1] for found in alone) / 3, rel=1e-4)
    assert float(restored[0]) == pytest.approx(sum(float(found[2][0]) for found in alone) / 3, rel=1e-4)


def test_groups_cover_the_prompt_once() -> None:
    row = probe_of(loaded("idefics3"), "same length").row
    groups = token_groups(row)
    assert [group.name for group in groups] == [
        "image", "before", "visual constraint", "textual constraint 1", "after", "last token",
    ]  # fmt: skip
    places = [place for group in groups for place in group.positions]
    assert sorted(places) == list(range(row.start, row.last + 1))


def test_tokens_before_the_corrupted_ones_have_no_effect() -> None:
    trace = multimodal_causal_trace(probe_of(loaded(), "same length"), window=LAYERS)
    for kind in KINDS:
        effects = dict(zip(trace.groups, trace.effect(kind), strict=True))
        assert effects["image"].abs().max() == 0
        assert effects["before"].abs().max() == 0


def test_windows() -> None:
    assert layer_windows(5, 1) == [range(k, k + 1) for k in range(5)]
    assert layer_windows(5, 3) == [range(0, 2), range(0, 3), range(1, 4), range(2, 5), range(3, 5)]
    assert all(layer in window for size in (2, 4, 5) for layer, window in enumerate(layer_windows(5, size)))
    assert default_window(QUESTION) == 6
    assert default_window(replace(QUESTION, textual=())) == 3


def test_traces_that_cannot_be_made() -> None:
    probe = probe_of(loaded(), "same length")
    for size in (0, LAYERS + 1):
        with pytest.raises(OptionError, match=f"window of {size} layers does not fit"):
            multimodal_causal_trace(probe, window=size)
    with pytest.raises(OptionError, match=r"kinds \(none\)"):
        multimodal_causal_trace(probe, kinds=())
    with pytest.raises(OptionError, match="rows is 0"):
        multimodal_causal_trace(probe, rows=0)
    beyond = Group("beyond", (10_000,))
    with pytest.raises(OptionError, match="10000 is not in the corrupted prompt"):
        multimodal_causal_trace(probe, groups=[beyond])
