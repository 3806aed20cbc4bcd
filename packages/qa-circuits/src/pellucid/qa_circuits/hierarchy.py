r"""Direct effects on the nodes of a circuit (thesis 8.3.2, hierarchies k >= 1), from the same two runs as hierarchy 0.

The nodes that have the highest direct effect on the logits make hierarchy 0; those with the highest direct effect on
the nodes of hierarchy k - 1 make hierarchy k. A sender `j` is patched on its edges into those receivers only:

    moved input of a receiver    residual_clean + c_j(corrupted) - c_j(clean)
    move of the final residual   sum over receivers of (receiver(moved input) - receiver(clean input))

Everything else keeps its clean value, so that only the receivers are computed anew, at the answer's positions. A
receiving head's query moves, and so do the keys and values of the answer's positions; those of the positions before are
the clean run's. For k >= 2 what the receivers change goes on directly into the receivers of the hierarchy before, and
so on down to the logits. The score is `1 - P(answer)`, as in hierarchy 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.attention import Attend, around_attention
from pellucid.core.errors import OptionError
from pellucid.core.tracing import Site, capture, find_module
from torch import Tensor, nn

from .components import Component, ComponentSet, check_sets
from .effects import CHUNK_BYTES, Members, PatchedScores, Runs, attention_moves, check_mode, run_both
from .prompts import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_receivers(receivers: Sequence[ComponentSet]) -> None:
    """Raise OptionError where there is no hierarchy of receivers, or one without a node."""
    if not receivers or not all(receivers):
        raise OptionError("there are no receivers: give the nodes of the hierarchies before, from the logits on")


def upstream(component: Component, receivers: Sequence[ComponentSet]) -> bool:
    """Whether a component writes into the input of any node of the last hierarchy: only then can it have an effect."""

    def depth(node: Component) -> int:
        return 2 * node.layer + (node.kind == "mlp")

    return any(depth(component) < depth(receiver) for receiver in receivers[-1])


@torch.inference_mode()
def hierarchy_scores(
    model: "PreTrainedModel",
    encoded: Sequence[Encoded],
    sets: Sequence[ComponentSet],
    receivers: Sequence[ComponentSet],
) -> PatchedScores:
    """Score `sets` of senders, each patched together on its edges into the last hierarchy of `receivers`.

    The clean and the corrupted prompts are one forward pass; then only the receivers' blocks are called.

    Args:
        model: a Hugging Face decoder of a known family, in eval mode; in memory, offloaded or quantised.
        encoded: one batch of probes as token ids; lengths may differ.
        sets: the sets to patch; those downstream of all receivers have no effect.
        receivers: nodes of hierarchies 0, 1, ..., k - 1; one entry makes the scores of hierarchy 1.

    Raises:
        OptionError: a set names a component that the model lacks, there are no receivers, or the model does not use
            transformers' attention interface.
        SiteError: the model's family is unknown.
    """
    check_receivers(receivers)
    check_mode(model)
    anatomy = decoder_anatomy(model)
    check_sets([*sets, *receivers], anatomy.layers, anatomy.heads)
    attention = _Attention([c.layer for nodes in receivers for c in nodes if c.kind != "mlp"])
    with around_attention(model, attention.attend):
        with attention.noting_rotation(anatomy):
            runs = run_both(anatomy, encoded, sets, extra=_inputs(anatomy, receivers))
        attention.read(runs)
        longest = max((keys.shape[2] for keys in attention.keys.values()), default=1)
        widest = max(model.config.vocab_size, runs.residual.shape[-1], anatomy.heads * longest)
        chunk = max(1, CHUNK_BYTES // (4 * len(runs.target) * widest))
        members = Members.of(sets, anatomy.layers, anatomy.heads)
        nodes = [Members.of([level], anatomy.layers, anatomy.heads) for level in receivers]
        parts = [torch.empty(0, len(encoded), device=runs.residual.device)]
        for start in range(0, len(sets), chunk):
            move = _move(anatomy, runs, attention, members[start : start + chunk], nodes)
            parts.append(runs.score(anatomy, runs.residual + move).to(runs.residual.device))
    floor = runs.score(anatomy, runs.residual[None])[0]
    corrupted = runs.score(anatomy, runs.corrupted_residual[None])[0]
    return PatchedScores(torch.cat(parts).T.cpu(), floor.cpu(), corrupted.cpu())


def _inputs(anatomy: DecoderAnatomy, receivers: Sequence[ComponentSet]) -> list[Site]:
    """What the clean run must leave behind so that the receivers can be computed anew."""
    sites: dict[Site, None] = {}
    for node in (node for nodes in receivers for node in nodes):
        if node.kind == "mlp":
            sites[anatomy.residual_before_mlp(node.layer)] = None
        else:
            sites[anatomy.residual_before_attention(node.layer)] = None
            sites[anatomy.head_outputs(node.layer)] = None
    return list(sites)


def _move(
    anatomy: DecoderAnatomy, runs: Runs, attention: "_Attention", senders: Members, receivers: Sequence[Members]
) -> Tensor:
    """How far each set moves the final residual stream through the receivers: `(sets, N, width)`, float32.

    `streams[k]` is how far the nodes of hierarchy k have moved the stream so far, seen by those of hierarchy k - 1
    alone (by the logits, for k = 0); the senders' is the last.
    """
    count = senders.mlp.shape[1]
    streams = [torch.zeros(count, *runs.residual.shape, device=runs.residual.device) for _ in range(len(receivers) + 1)]
    touched = [torch.zeros(count, dtype=torch.bool) for _ in streams]

    def add(moves: list[tuple[int, Tensor, Tensor]]) -> None:
        # Only after all nodes of a place have been computed: they do not see each other.
        for level, rows, move in moves:
            streams[level][rows] += move
            touched[level] |= rows

    for layer in range(anatomy.layers):
        moves = []
        rows = senders.attention[layer] | senders.heads[layer].any(-1)
        if rows.any():
            moves.append((len(receivers), rows, attention_moves(anatomy, runs, senders, layer, rows)))
        for level, nodes in enumerate(receivers):
            seen = touched[level + 1]
            if seen.any() and (nodes.attention[layer, 0] or nodes.heads[layer, 0].any()):
                stream = streams[level + 1][seen]
                moves.append((level, seen.clone(), _new_attention(anatomy, runs, attention, nodes, layer, stream)))
        add(moves)

        moves = []
        base = anatomy.mlp_write(layer, runs.mlp[layer].float())
        if (rows := senders.mlp[layer]).any():
            move = anatomy.mlp_write(layer, runs.corrupted_mlp[layer].float()) - base
            moves.append((len(receivers), rows, move))
        for level, nodes in enumerate(receivers):
            seen = touched[level + 1]
            if seen.any() and nodes.mlp[layer, 0]:
                middle = runs.extra[anatomy.residual_before_mlp(layer)].float() + streams[level + 1][seen]
                new = anatomy.mlp_write(layer, anatomy.run_mlp(layer, middle).float())
                moves.append((level, seen.clone(), new - base))
        add(moves)
    return streams[0]


def _new_attention(
    anatomy: DecoderAnatomy, runs: Runs, attention: "_Attention", nodes: Members, layer: int, stream: Tensor
) -> Tensor:
    """How a layer's receiving heads write otherwise where their input is moved by `stream`, `(sets, N, width)`."""
    heads, whole = anatomy.head_outputs(layer), anatomy.attention(layer)
    clean = runs.attention[layer].float()
    moved = runs.extra[anatomy.residual_before_attention(layer)].float() + stream
    with capture(anatomy.model, [heads, whole]) as store:
        anatomy.run_attention(layer, moved, position_embeddings=attention.rotation[layer])
    if nodes.attention[layer, 0]:
        new = store[whole][0].to(clean).float()
    else:
        change = store[heads][0].to(runs.extra[heads].device) - runs.extra[heads]
        keep = nodes.heads[layer, 0].to(change).repeat_interleave(anatomy.head_dim)
        new = clean + anatomy.project(layer, change * keep).to(clean)
    return anatomy.attention_write(layer, new) - anatomy.attention_write(layer, clean)


class _Attention:
    """The receivers' attention: the clean run's keys and values, and the answers' positions computed anew.

    While the prompts are read it takes notes. Afterwards an attention block is called with the answers' positions of
    all probes as its tokens and the sets as its batch: each position sees its own probe's prompt as the clean run left
    it, and of the answer what comes before it.

    Attributes:
        layers: where there are receivers.
        keys, values: layer -> `(probes, key-value heads, tokens, head_dim)`, rotated, padded on the left.
        rotation: layer -> the rotary embedding's cosines and sines, `(1, N, head_dim)`.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = frozenset(layers)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.rotation: dict[int, tuple[Tensor, Tensor]] = {}
        self._runs: Runs | None = None

    @contextmanager
    def noting_rotation(self, anatomy: DecoderAnatomy) -> Iterator[None]:
        """Note the rotary embeddings while the block runs."""

        def note(module: nn.Module, _: Any, options: dict[str, Any]) -> None:
            self.rotation[cast(int, module.layer_idx)] = options["position_embeddings"]

        with ExitStack() as stack:
            for layer in self.layers:
                module = find_module(anatomy.model, anatomy.attention_block(layer))
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield

    def read(self, runs: Runs) -> None:
        """The prompts have been read: keep what belongs to clean prompts, and to the answers' positions."""
        self._runs = runs
        count = len(runs.padding)
        for layer, parts in self.rotation.items():
            self.keys[layer] = self.keys[layer][:count].clone()
            self.values[layer] = self.values[layer][:count].clone()
            cos, sin = (part.expand(2 * count, -1, -1)[runs.owner, runs.place][None] for part in parts)
            self.rotation[layer] = cos, sin

    def attend(
        self,
        base: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """The model's own attention while prompts are read, and then that of the answers' positions.

        `query` is `(batch, heads, tokens, head_dim)`, `key` and `value` have the key-value heads; the output is
        `(batch, tokens, heads, head_dim)`.
        """
        layer = cast(int, module.layer_idx)
        if self._runs is None:
            if layer in self.layers:
                self.keys[layer], self.values[layer] = key, value
            return base(module, query, key, value, attention_mask, **options)
        output = torch.empty_like(query)
        for probe, padding in enumerate(self._runs.padding.tolist()):
            rows = torch.nonzero(self._runs.owner == probe)[:, 0]
            prompt = slice(padding, int(self._runs.place[rows[0]]))
            past = self.keys[layer][probe, :, prompt], self.values[layer][probe, :, prompt]
            output[:, :, rows] = _attend(query[:, :, rows], key[:, :, rows], value[:, :, rows], *past, options)
        return output.transpose(1, 2), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, options: dict[str, Any]
) -> Tensor:
    """Attention of an answer's positions to a prompt and to one another, for many sets that share the prompt.

    Args:
        query: `(sets, heads, answer, head_dim)`.
        key: `(sets, key-value heads, answer, head_dim)`, as is `value`.
        value: see `key`.
        past_key: `(key-value heads, prompt, head_dim)`, as is `past_value`.
        past_value: see `past_key`.
        options: what a block gives its attention function: scaling, soft-cap, sliding window.

    Returns:
        `(sets, heads, answer, head_dim)`.
    """
    length, count = past_key.shape[1], query.shape[2]
    grouped = query.unflatten(1, (key.shape[1], -1))
    to_prompt = torch.einsum("skgad,kpd->skgap", grouped, past_key)
    to_answer = torch.einsum("skgad,sktd->skgat", grouped, key)
    logits = torch.cat([to_prompt, to_answer], dim=-1).float() * options["scaling"]
    if (cap := options.get("softcap")) is not None:
        logits = torch.tanh(logits / cap) * cap
    distance = torch.arange(length, length + count)[:, None] - torch.arange(length + count)
    hidden = distance < 0
    if (window := options.get("sliding_window")) is not None:
        hidden |= distance >= window
    weights = logits.masked_fill(hidden.to(logits.device), -torch.inf).softmax(-1).to(value.dtype)
    seen = torch.einsum("skgap,kpd->skgad", weights[..., :length], past_value)
    return (seen + torch.einsum("skgat,sktd->skgad", weights[..., length:], value)).flatten(1, 2)
