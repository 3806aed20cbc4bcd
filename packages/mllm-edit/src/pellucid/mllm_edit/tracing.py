"""MultimodalCausalTrace: where, by token and layer, restoring what a clean run computed brings its answer back (6.2.2).

The clean run is computed once, and so is the corrupted one. Every restored run, one for each kind of layer, group of
tokens and window of layers, is a row of one batch. Tokens before the first corrupted one are the same in all runs, for
no token sees later ones: they are computed once and lie in the key-value cache of all rows. With the constraint in
other words these are all image tokens, so that a row costs as many tokens as the rest of the question has.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pellucid.core.errors import OptionError
from pellucid.core.tracing import Site, capture, patch
from torch import Tensor

from .corruption import TraceProbe, repeated
from .inputs import Row
from .questions import VisualQuestion

Kind = Literal["mlp", "attention"]
KINDS: tuple[Kind, ...] = ("mlp", "attention")


@dataclass(frozen=True)
class Group:
    """Tokens that are restored together, by their positions in the corrupted prompt."""

    name: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Restoration:
    """One restored run: which layers' outputs of which kinds are clean, at which positions."""

    kinds: tuple[Kind, ...]
    layers: range
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """What a trace finds; all are probabilities of the whole answer.

    Attributes:
        clean: P_clean(O).
        corrupted: P_corr(O), the mean over draws of noise.
        groups: names of the token groups, in the order of the prompt.
        windows: of layers, `(first, stop)`, one with each layer in its middle.
        restored: of each kind P_restored(O), `(groups, windows)`, the mean over draws of noise.
    """

    clean: float
    corrupted: float
    groups: tuple[str, ...]
    windows: tuple[tuple[int, int], ...]
    restored: Mapping[Kind, Tensor]

    def effect(self, kind: Kind) -> Tensor:
        """The indirect estimation effect P_restored(O) - P_corr(O), `(groups, windows)` (thesis 6.2.2)."""
        return self.restored[kind] - self.corrupted


def default_window(question: VisualQuestion) -> int:
    """How many layers are restored together: 3 for one constraint, 6 for several (thesis 6.3.1)."""
    return 6 if question.textual else 3


def layer_windows(layers: int, size: int) -> list[range]:
    """For each layer the window with it in the middle; cut where the model ends.

    Raises:
        OptionError: the size is below 1 or above the number of layers.
    """
    if not 1 <= size <= layers:
        raise OptionError(f"a window of {size} layers does not fit a model of {layers}: give 1 to {layers}")
    return [range(max(0, layer - size // 2), min(layers, layer + (size + 1) // 2)) for layer in range(layers)]


def token_groups(row: Row) -> list[Group]:
    """The groups that a trace looks at, from the first token to the last; no token of the prompt is in two of them.

    These are the picture, the words before the constraints, each constraint, the words after the first constraint, and
    the prompt's last token. Tokens of the answer are in none: they are not restored, and see the corrupted constraint.
    """
    constraints = [span for span in (row.visual, *row.textual) if span]
    named = [("visual constraint", row.visual)] if row.visual else []
    named += [(f"textual constraint {k}", span) for k, span in enumerate(row.textual, 1)]
    taken = {*row.image, *(place for span in constraints for place in span), row.last}
    first = min((span[0] for span in constraints), default=row.last)
    rest = [place for place in range(row.start, row.last) if place not in taken]
    found = [
        Group("image", row.image),
        Group("before", tuple(place for place in rest if place < first)),
        *(Group(name, span) for name, span in sorted(named, key=lambda pair: pair[1])),
        Group("after", tuple(place for place in rest if place > first)),
        Group("last token", (row.last,)),
    ]
    return [group for group in found if group.positions]


def multimodal_causal_trace(
    probe: TraceProbe,
    *,
    window: int = 3,
    kinds: Sequence[Kind] = KINDS,
    groups: Sequence[Group] | None = None,
    rows: int = 32,
) -> Trace:
    """Trace one question (thesis 6.2.2).

    Args:
        probe: the question, clean and corrupted.
        window: how many layers are restored together.
        kinds: outputs of which parts: MLPs, attention blocks.
        groups: of tokens, by their positions in the corrupted prompt; those of `token_groups` by default.
        rows: of one batch at most; it does not change results beyond rounding. Each row of a large model holds the
            key-value cache of the whole prompt.

    Raises:
        OptionError: a window that does not fit, or no kind.
    """
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise OptionError(f"kinds {', '.join(kinds) or '(none)'}: give {' or '.join(KINDS)}")
    windows = layer_windows(probe.anatomy.layers, window)
    groups = token_groups(probe.row) if groups is None else list(groups)
    jobs = [Restoration((kind,), layers, group.positions) for kind in kinds for group in groups for layers in windows]
    clean, corrupted, restored = restored_probabilities(probe, jobs, rows=rows)
    table = restored.view(len(kinds), len(groups), len(windows))
    return Trace(
        clean=clean,
        corrupted=corrupted,
        groups=tuple(group.name for group in groups),
        windows=tuple((layers.start, layers.stop) for layers in windows),
        restored=dict(zip(kinds, table, strict=True)),
    )


@torch.inference_mode()
def restored_probabilities(
    probe: TraceProbe, jobs: Sequence[Restoration], *, rows: int = 32, embeddings: bool = False, share: bool = True
) -> tuple[float, float, Tensor]:
    """Probabilities of the answer in the clean, the corrupted, and any number of restored runs.

    Args:
        probe: the question, clean and corrupted.
        jobs: what to restore, one for each restored run.
        rows: of one batch at most.
        embeddings: also restore the embeddings at the jobs' positions, so that everything can be restored.
        share: compute what all runs have in common once.

    Returns:
        P_clean(O), P_corr(O), and `(jobs,)` P_restored(O) in float32 on the processor.

    Raises:
        OptionError: rows is below 1, or a position lies outside the corrupted prompt.
    """
    if rows < 1:
        raise OptionError(f"rows is {rows}: give at least 1")
    tokens = probe.corrupted["inputs_embeds"].shape[1]
    outside = [place for job in jobs for place in job.positions if not 0 <= place < tokens]
    if outside:
        raise OptionError(f"position {outside[0]} is not in the corrupted prompt of {tokens} tokens: count from 0")
    store, clean = _clean_run(probe, jobs)
    shared = _shared_tokens(probe) if share else 0
    draws = probe.corrupted["inputs_embeds"].shape[0]
    # A job that restores only what is the same in both runs does nothing, and needs no row.
    idle = [k for k, job in enumerate(jobs) if not any(place >= shared for place in job.positions)]
    waiting: list[Restoration | None] = [None, *(job for k, job in enumerate(jobs) if k not in set(idle))]
    cache = _prefix(probe, shared) if shared else None
    found: list[float] = []
    step = max(1, rows // draws)
    for start in range(0, len(waiting), step):
        part = waiting[start : start + step]
        found += _restored_runs(probe, part, store, shared, cache, embeddings).view(len(part), draws).mean(1).tolist()
    corrupted = found[0]
    result = torch.full((len(jobs),), corrupted)
    active = [k for k in range(len(jobs)) if k not in set(idle)]
    result[active] = torch.tensor(found[1:])
    return clean, corrupted, result


def _site(probe: TraceProbe, kind: Kind, layer: int) -> Site:
    return probe.anatomy.mlp(layer) if kind == "mlp" else probe.anatomy.attention(layer)


def _clean_run(probe: TraceProbe, jobs: Sequence[Restoration]) -> tuple[dict[Site, Tensor], float]:
    """Clean activations wherever some job restores, `(tokens, width)`, and the clean probability."""
    sites = {_site(probe, kind, layer) for job in jobs for kind in job.kinds for layer in job.layers}
    with capture(probe.anatomy.model, sites) as seen:
        hidden = probe.anatomy.hidden({**probe.clean, "use_cache": False})
    store = {site: values[0][0] for site, values in seen.items()}
    return store, float(_answer_probability(probe, hidden, probe.clean_row, 0)[0])


def _answer_probability(probe: TraceProbe, hidden: Tensor, row: Row, shared: int) -> Tensor:
    """P(O) of each row of hidden states that begin after the shared tokens."""
    logits = probe.anatomy.unembed(hidden[:, row.last - shared : row.answer[-1] - shared])
    ids = torch.tensor(row.answer_ids, device=logits.device)
    return logits.log_softmax(-1).gather(-1, ids.expand(len(logits), -1)[..., None]).sum((-2, -1)).exp().cpu()


def _shared_tokens(probe: TraceProbe) -> int:
    """How many tokens in front are the same in all runs; at least the prompt's last token is not among them."""
    clean, corrupted = probe.clean["inputs_embeds"], probe.corrupted["inputs_embeds"]
    most = min(probe.row.last, clean.shape[1], corrupted.shape[1])
    same = (clean[:, :most] == corrupted[:, :most]).all(-1).all(0)
    if "position_ids" in probe.clean:
        ours, theirs = (given["position_ids"][..., :1, :most] for given in (probe.corrupted, probe.clean))
        same = same & (ours == theirs).flatten(0, -2).all(0).to(same.device)
    return int(same.long().cumprod(0).sum())


def _prefix(probe: TraceProbe, shared: int) -> Any:
    """The key-value cache of the shared tokens, one row."""
    from transformers import DynamicCache

    cache = DynamicCache(config=probe.anatomy.language_model.config)
    probe.anatomy.hidden({**_cut(probe.clean, 0, shared), "past_key_values": cache, "use_cache": True})
    return cache


def _cut(given: Mapping[str, Any], start: int, stop: int | None = None) -> dict[str, Any]:
    """Inputs of the language model for some of the tokens; tokens are the last dimension but in embeddings."""
    return {
        name: value[:, start:stop] if name == "inputs_embeds" else value[..., start:stop]
        for name, value in given.items()
    }


def _restored_runs(
    probe: TraceProbe,
    jobs: Sequence[Restoration | None],
    store: Mapping[Site, Tensor],
    shared: int,
    cache: Any,
    embeddings: bool,
) -> Tensor:
    """P(O) of some restored runs as rows of one batch, every job by all draws; None restores nothing."""
    draws = probe.corrupted["inputs_embeds"].shape[0]
    given = _cut(repeated(probe.corrupted, len(jobs)), shared)
    copies: dict[Site, list[tuple[list[int], list[int], list[int]]]] = {}
    for place, job in enumerate(jobs):
        if job is None:
            continue
        pairs = [(ours, probe.partners[ours]) for ours in job.positions if ours >= shared and ours in probe.partners]
        ours, theirs = [pair[0] - shared for pair in pairs], [pair[1] for pair in pairs]
        own = list(range(place * draws, (place + 1) * draws))
        for kind in job.kinds:
            for layer in job.layers:
                copies.setdefault(_site(probe, kind, layer), []).append((own, ours, theirs))
        if embeddings:
            _restore(given["inputs_embeds"], probe.clean["inputs_embeds"][0], own, ours, theirs)

    def restoring(site: Site) -> Callable[[Tensor, int], Tensor]:
        def change(value: Tensor, _: int) -> Tensor:
            value = value.clone()
            for own, ours, theirs in copies[site]:
                _restore(value, store[site], own, ours, theirs)
            return value

        return change

    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(jobs) * draws)
        given["past_key_values"] = cache
    with ExitStack() as stack:
        stack.enter_context(patch(probe.anatomy.model, {site: restoring(site) for site in copies}))
        hidden = probe.anatomy.hidden({**given, "use_cache": cache is not None})
    return _answer_probability(probe, hidden, probe.row, shared)


def _restore(value: Tensor, clean: Tensor, own: list[int], ours: list[int], theirs: list[int]) -> None:
    """Write clean activations `(tokens, width)` into some rows of a batch, in place."""
    for row in own:
        value[row, ours] = clean[theirs].to(device=value.device, dtype=value.dtype)
