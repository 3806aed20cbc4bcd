"""Multimodal tracing in batches against one window at a time, and the closed-form edit against the d x d inverse.

What is restored and what is solved is the same both ways. The slow trace is the published one: for each window it runs
the clean and the corrupted question again. The slow edit inverts a matrix as large as the MLP is wide, in float32.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pellucid.core.edits import WeightEdit, solve
from pellucid.core.multimodal import LoadedMultimodal, load_multimodal
from pellucid.core.progress import progress
from pellucid.core.tracing import capture, patch
from pellucid.mllm_edit.answering import answer_probability
from pellucid.mllm_edit.corruption import TraceProbe, replacement_probe, substituted
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.tracing import KINDS, Group, layer_windows, multimodal_causal_trace, token_groups
from torch import Tensor, nn

QUESTION = VisualQuestion("", "Which mill belongs to this person?", "this person", answers=("the red mill",))
PHRASE = "the baron"
RIDGE = 0.01


def measure(
    model: str = "zoo:tinyworld-llava", inner: int = 11008, width: int = 4096, threads: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Measure both in one run.

    Args:
        model: what is traced; the picture is noise, which changes no time.
        inner: how many channels the edited map reads: 11008 in LLaVA-7B.
        width: how many it writes.
        threads: of the processor.
        seed: of the picture, weights, key and value.

    Returns:
        For `trace`: `windows`, `tokens`, `batched_seconds`, `one_at_a_time_seconds`, their `ratio`, and
        `largest_difference` of the restored probabilities, relative to them. For `edit`: `inner`, `width`, `seconds`
        (solve, apply and revert), `inverse_seconds`, their `ratio`, and `error` and `inverse_error`: how far either
        weight is from the exact one, relative to it (Frobenius norms).
    """
    torch.set_num_threads(threads)
    return {"trace": _traced(load_multimodal(model), seed), "edit": _edited(inner, width, seed)}


def summary(found: dict[str, Any]) -> str:
    """What `measure` found, in a few sentences."""
    trace, edit = found["trace"], found["edit"]
    return (
        f"A trace of one question, {trace['windows']} windows over all layers, takes {trace['batched_seconds']:.3g} s, "
        f"{trace['ratio']:.3g} times as fast as one window at a time; probabilities differ by at most "
        f"{trace['largest_difference']:.1e} of them. An edit at d = {edit['inner']} takes {edit['seconds']:.3g} s, "
        f"{edit['ratio']:.3g} times as fast as the d x d inverse; its weight is {edit['error']:.1e} from the "
        f"exact one, the inverse's {edit['inverse_error']:.1e}."
    )


def _traced(loaded: LoadedMultimodal, seed: int) -> dict[str, Any]:
    from PIL import Image

    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    pictures = [Image.fromarray(noise.numpy())]
    answer = QUESTION.answers[0]

    def probe() -> TraceProbe:
        return replacement_probe(loaded, QUESTION, answer, {QUESTION.visual: PHRASE}, images=pictures)

    groups = token_groups(probe().row)
    multimodal_causal_trace(probe(), window=1, rows=2)  # what only the first call costs
    fast, batched = _timed(lambda: multimodal_causal_trace(probe(), window=1, rows=128))
    slow, alone = _timed(lambda: _one_at_a_time(loaded, probe(), groups, pictures))
    together = torch.stack([fast.restored[kind] for kind in KINDS])
    return {
        "windows": together.numel(),
        "tokens": probe().corrupted["inputs_embeds"].shape[1],
        "batched_seconds": batched,
        "one_at_a_time_seconds": alone,
        "ratio": alone / batched,
        "largest_difference": float(((together - slow.view_as(together)) / slow.view_as(together)).abs().max()),
    }


def _one_at_a_time(loaded: LoadedMultimodal, probe: TraceProbe, groups: Sequence[Group], pictures: list[Any]) -> Tensor:
    """The restored probabilities, `(kinds * groups * layers,)`: three passes of the whole model for each."""
    answer = QUESTION.answers[0]
    both = [QUESTION, substituted(QUESTION, {QUESTION.visual: PHRASE})]
    windows = layer_windows(probe.anatomy.layers, 1)
    found = []
    with progress("Tracing one window at a time", len(KINDS) * len(groups)) as advance:
        for kind in KINDS:
            for group in groups:
                for window in windows:
                    site = (probe.anatomy.mlp if kind == "mlp" else probe.anatomy.attention)(window[0])
                    clean, corrupted = (prepare(loaded, [one], answers=[answer], images=pictures) for one in both)
                    with capture(loaded.model, [site]) as seen:
                        answer_probability(loaded, clean)
                    answer_probability(loaded, corrupted)
                    with patch(loaded.model, {site: _restoring(seen[site][0][0], probe, group)}):
                        found.append(float(answer_probability(loaded, corrupted)))
                advance(1)
    return torch.tensor(found)


def _restoring(clean: Tensor, probe: TraceProbe, group: Group) -> Callable[[Tensor, int], Tensor]:
    pairs = [(place, probe.partners[place]) for place in group.positions if place in probe.partners]

    def change(value: Tensor, _: int) -> Tensor:
        value = value.clone()
        value[0, [ours for ours, _ in pairs]] = clean[[theirs for _, theirs in pairs]]
        return value

    return change


def _edited(inner: int, width: int, seed: int) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    model = nn.ModuleList([nn.Linear(inner, width, bias=False)]).requires_grad_(False)
    key, value = torch.randn(1, inner, generator=chance), torch.randn(1, width, generator=chance)
    before = next(model.parameters()).detach().clone()
    edit, solved = _timed(lambda: WeightEdit.of(model, [solve(model, "0", key, value, RIDGE)]))
    _, applied = _timed(lambda: edit.apply(model))
    error = _error(next(model.parameters()), before, key, value)
    _, reverted = _timed(lambda: edit.revert(model))
    slow, inverse = _timed(lambda: _textbook(before, key, value))
    seconds = solved + applied + reverted
    return {
        "inner": inner,
        "width": width,
        "seconds": seconds,
        "inverse_seconds": inverse,
        "ratio": inverse / seconds,
        "error": error,
        "inverse_error": _error(slow, before, key, value),
    }


def _textbook(weight: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(ridge W0 + v k')(ridge I + k k')^-1, as eq. 6.5 is solved in print, in the weight's dtype."""
    return (RIDGE * weight + value.T @ key) @ torch.linalg.inv(RIDGE * torch.eye(key.shape[1]) + key.T @ key)


def _error(weight: Tensor, before: Tensor, key: Tensor, value: Tensor) -> float:
    """|W - W*| / |W*| with W* = W0 + (v - W0 k) k' / (ridge + k'k), in float64."""
    base, k, v = before.double(), key.double(), value.double()
    exact = base + (v - k @ base.T).T @ k / (RIDGE + k @ k.T)
    return float((weight.double() - exact).norm() / exact.norm())


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began
