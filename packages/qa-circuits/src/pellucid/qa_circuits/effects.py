r"""Direct effects of components on an answer (thesis 8.3.2, hierarchy 0), in two forward passes a probe.

With every other component held at its clean value, replacing component `j` by its value in the corrupted run moves
the final residual stream by exactly `c_j(corrupted) - c_j(clean)`, so that

    logits_j = unembed(final_norm(residual_clean + c_j(corrupted) - c_j(clean)))

needs no forward pass of its own. The score is `1 - P(answer)` after the patch. Several components patched TOGETHER
are as cheap: their differences add. Answers of several tokens are scored whole: the answer is teacher-forced, the
patch is made at every position that predicts one of its tokens, and P(answer) is the product.

Two definitions: `direct` holds attention and MLPs at their clean values (the thesis's); `through_mlps` lets the MLPs
after the patch recompute while attention stays clean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.errors import OptionError
from pellucid.core.tracing import Site, capture
from torch import Tensor

from .components import ComponentSet, check_sets
from .prompts import Encoded, pad_left

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Definition = Literal["direct", "through_mlps"]
CHUNK_BYTES = 256 * 2**20  # bound on the logits held at once


def check_definition(name: str) -> Definition:
    """Return the definition of that name, or raise OptionError."""
    if name not in get_args(Definition):
        raise OptionError(f"no definition {name!r}: choose from {', '.join(get_args(Definition))}")
    return cast(Definition, name)


def check_mode(model: "PreTrainedModel") -> None:
    """Raise OptionError for a model in training mode."""
    if model.training:
        raise OptionError("the model is in training mode, where dropout makes effects random: call model.eval()")


@dataclass(frozen=True)
class PatchedScores:
    """Scores of a batch of probes.

    Attributes:
        scores: `1 - P(answer)` with each set patched, `(probes, sets)`.
        floor: `1 - P(answer)` of the clean run, `(probes,)`.
        corrupted: `1 - P(answer)` of the corrupted run, `(probes,)`.
    """

    scores: Tensor
    floor: Tensor
    corrupted: Tensor


@torch.inference_mode()
def patched_scores(
    model: "PreTrainedModel",
    encoded: Sequence[Encoded],
    sets: Sequence[ComponentSet],
    definition: Definition = "direct",
) -> PatchedScores:
    """Score `sets` of components, each patched together from the corrupted into the clean run.

    Args:
        model: a Hugging Face decoder of a known family, in eval mode; in memory, offloaded or quantised.
        encoded: one batch of probes as token ids; lengths may differ.
        sets: the sets to patch; single components give the hierarchy-0 scores of eq. "score(i, g_j)" in 8.3.2.
        definition: what is held at its clean value, see the module's text.

    Raises:
        OptionError: a set names a component the model lacks, or the definition is unknown.
        SiteError: the model's family is unknown.
    """
    check_definition(definition)
    check_mode(model)
    anatomy = decoder_anatomy(model)
    check_sets(sets, anatomy.layers, anatomy.heads)
    extra = [anatomy.residual_before_mlp(i) for i in range(anatomy.layers)] if definition == "through_mlps" else []
    runs = run_both(anatomy, encoded, sets, extra)
    width = runs.residual.shape[-1]
    vocabulary = model.config.vocab_size
    chunk = max(1, CHUNK_BYTES // (4 * len(runs.target) * max(vocabulary, width)))
    members = Members.of(sets, anatomy.layers, anatomy.heads)
    parts = [torch.empty(0, len(encoded), device=runs.residual.device)]
    for start in range(0, len(sets), chunk):
        move = _move(anatomy, runs, members[start : start + chunk], definition == "through_mlps")
        parts.append(runs.score(anatomy, runs.residual + move).to(runs.residual.device))
    scores = torch.cat(parts)
    floor = runs.score(anatomy, runs.residual[None])[0]
    corrupted = runs.score(anatomy, runs.corrupted_residual[None])[0]
    return PatchedScores(scores.T.cpu(), floor.cpu(), corrupted.cpu())


@dataclass(frozen=True)
class Members:
    """Which sets hold what: `heads` `(layers, sets, heads)`, `attention` and `mlp` `(layers, sets)`, all boolean."""

    heads: Tensor
    attention: Tensor
    mlp: Tensor

    @classmethod
    def of(cls, sets: Sequence[ComponentSet], layers: int, heads: int) -> "Members":
        """Sort sets by what they hold."""
        members = cls(
            torch.zeros(layers, len(sets), heads, dtype=torch.bool),
            torch.zeros(layers, len(sets), dtype=torch.bool),
            torch.zeros(layers, len(sets), dtype=torch.bool),
        )
        for row, components in enumerate(sets):
            for c in components:
                if c.kind == "head":
                    members.heads[c.layer, row, c.index] = True
                else:
                    getattr(members, c.kind)[c.layer, row] = True
        return members

    def __getitem__(self, rows: slice) -> "Members":
        return Members(self.heads[:, rows], self.attention[:, rows], self.mlp[:, rows])


@dataclass(frozen=True)
class Runs:
    """What the two runs left at the answer's positions; N is the number of answer tokens in the batch.

    Attributes:
        owner: which probe each answer token belongs to, `(N,)`; `target`: its token id, `(N,)`.
        place: the column of the padded prompts that predicts each, `(N,)`; `padding`: columns in front, `(probes,)`.
        residual, corrupted_residual: what enters the final norm, `(N, width)`, float32.
        attention, corrupted_attention, mlp, corrupted_mlp: outputs before any post-norm, `(layers, N, width)`.
        head_moves: layer -> corrupted minus clean write of each head before any post-norm, `(heads, N, width)`.
        extra: what else was asked for of the clean run, `(N, channels)` each.
    """

    owner: Tensor
    target: Tensor
    place: Tensor
    padding: Tensor
    residual: Tensor
    corrupted_residual: Tensor
    attention: Tensor
    corrupted_attention: Tensor
    mlp: Tensor
    corrupted_mlp: Tensor
    head_moves: dict[int, Tensor]
    extra: dict[Site, Tensor]

    def score(self, anatomy: DecoderAnatomy, residual: Tensor) -> Tensor:
        """`1 - P(answer)` for final residual streams `(sets, N, width)`, as `(sets, probes)`."""
        logits = anatomy.unembed(residual)
        target = self.target.to(logits.device).expand(logits.shape[:-1])[..., None]
        log_p = logits.gather(-1, target)[..., 0] - logits.logsumexp(-1)
        total = torch.zeros(len(residual), int(self.owner.max()) + 1, device=logits.device)
        return 1 - total.index_add_(1, self.owner.to(logits.device), log_p).exp()


def run_both(
    anatomy: DecoderAnatomy, encoded: Sequence[Encoded], sets: Sequence[ComponentSet], extra: Sequence[Site] = ()
) -> Runs:
    """Run clean and corrupted prompts as ONE batch, so that offloaded weights are streamed once for both.

    What `sets` need is kept, and the clean run's values at the sites of `extra`.
    """
    count, longest = len(encoded), max(len(e.answer) for e in encoded)
    config = anatomy.model.config
    pad = config.pad_token_id if getattr(config, "pad_token_id", None) is not None else 0
    sequences = [e.clean + e.answer[:-1] for e in encoded] + [e.corrupted + e.answer[:-1] for e in encoded]
    ids, mask = pad_left(sequences, pad)

    layers = range(anatomy.layers)
    head_layers = sorted({c.layer for members in sets for c in members if c.kind == "head"})
    final = anatomy.final_residual()
    sites: list[Site] = [final, *(anatomy.attention(i) for i in layers), *(anatomy.mlp(i) for i in layers)]
    sites += [anatomy.head_outputs(i) for i in head_layers] + list(extra)

    device = anatomy.model.device if anatomy.model.device.type != "meta" else torch.device("cpu")
    with capture(anatomy.model, sites, positions=slice(-longest, None)) as store:
        anatomy.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            use_cache=False,
            logits_to_keep=1,
        )
    home = store[final][0].device

    # Row n of everything below is one answer token: probe owner[n], counted from the end of its sequence.
    owner = torch.tensor([b for b, e in enumerate(encoded) for _ in e.answer])
    column = torch.tensor([longest - len(e.answer) + t for e in encoded for t in range(len(e.answer))])

    kept = {site: store[site][0].to(home)[owner, column] for site in extra}

    def both(site: Site) -> tuple[Tensor, Tensor]:
        (value,) = store.pop(site)
        value = value.to(home)
        return value[owner, column], value[owner + count, column]

    def stacked(sites: Sequence[Site]) -> tuple[Tensor, Tensor]:
        clean, corrupted = zip(*map(both, sites), strict=True)
        return torch.stack(clean), torch.stack(corrupted)

    residual, corrupted_residual = both(final)
    head_moves = {}
    for layer in head_layers:
        clean, corrupted = both(anatomy.head_outputs(layer))
        difference = (corrupted - clean).unflatten(-1, (anatomy.heads, anatomy.head_dim))
        head_moves[layer] = anatomy.project_heads(layer, difference).to(home).float()
    attention, corrupted_attention = stacked([anatomy.attention(i) for i in layers])
    mlp, corrupted_mlp = stacked([anatomy.mlp(i) for i in layers])
    return Runs(
        owner=owner,
        target=torch.tensor([t for e in encoded for t in e.answer]),
        place=column + ids.shape[1] - longest,
        padding=ids.shape[1] - mask[:count].sum(-1),
        residual=residual.float(),
        corrupted_residual=corrupted_residual.float(),
        attention=attention,
        corrupted_attention=corrupted_attention,
        mlp=mlp,
        corrupted_mlp=corrupted_mlp,
        head_moves=head_moves,
        extra=kept,
    )


def _move(anatomy: DecoderAnatomy, runs: Runs, members: Members, through_mlps: bool) -> Tensor:
    """How far each set moves the final residual stream: `(sets, N, width)`, float32.

    `through_mlps` recomputes the MLPs after a patch, layer by layer, at the answer's positions only; attention stays
    clean, so no other position is ever touched.
    """
    move = torch.zeros(members.mlp.shape[1], *runs.residual.shape, device=runs.residual.device)
    touched = torch.zeros(len(move), dtype=torch.bool)
    for layer in range(anatomy.layers):
        rows = members.attention[layer] | members.heads[layer].any(-1)
        if rows.any():
            move[rows] += attention_moves(anatomy, runs, members, layer, rows)
        touched |= rows
        replaced = members.mlp[layer]
        recompute = touched & ~replaced if through_mlps else torch.zeros_like(touched)
        if not (replaced | recompute).any():
            continue
        base = anatomy.mlp_write(layer, runs.mlp[layer].float())
        if recompute.any():
            middle = runs.extra[anatomy.residual_before_mlp(layer)].float() + move[recompute]
            move[recompute] += anatomy.mlp_write(layer, anatomy.run_mlp(layer, middle).float()) - base
        if replaced.any():
            move[replaced] += anatomy.mlp_write(layer, runs.corrupted_mlp[layer].float()) - base
        touched |= replaced
    return move


def attention_moves(anatomy: DecoderAnatomy, runs: Runs, members: Members, layer: int, rows: Tensor) -> Tensor:
    """By how much those sets that patch this layer's attention move the residual stream, `(rows, N, width)`."""
    clean = runs.attention[layer].float()
    patched = clean.expand(int(rows.sum()), *clean.shape).clone()
    if layer in runs.head_moves:
        moves = runs.head_moves[layer]
        patched += torch.einsum("sh,hnd->snd", members.heads[layer][rows].to(moves), moves)
    patched[members.attention[layer][rows]] = runs.corrupted_attention[layer].float()
    base = anatomy.attention_write(layer, runs.attention[layer].float())
    return anatomy.attention_write(layer, patched) - base
