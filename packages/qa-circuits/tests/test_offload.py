"""A model that does not fit the memory: how often its weights are read from where they lie."""

from collections import Counter

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits.components import all_components
from pellucid.qa_circuits.effects import patched_scores
from pellucid.qa_circuits.prompts import Encoded


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("probes", [1, 7])
def test_each_layer_is_streamed_at_most_twice_a_batch(
    family: str, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_decoder(family)
    batch = [Encoded([5 + i, 6, 7, 8], [9, 10 + i, 7, 8], [11, 12]) for i in range(probes)]
    singles = [(c,) for c in all_components(3, 4)]
    plain = patched_scores(model, batch, singles)

    names = {id(module): name for name, module in model.named_modules()}
    loads: Counter[str] = Counter()
    before = AlignDevicesHook.pre_forward

    def counted(self: AlignDevicesHook, module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        # What has no weights of its own is not streamed.
        loads[names[id(module)]] += bool(self.offload and list(module.parameters(recurse=False)))
        return before(self, module, *args, **kwargs)

    monkeypatch.setattr(AlignDevicesHook, "pre_forward", counted)
    cpu_offload(model, execution_device=torch.device("cpu"))
    streamed = patched_scores(model, batch, singles)

    torch.testing.assert_close(streamed.scores, plain.scores, atol=1e-6, rtol=0)
    # Norms are vectors: of Gemma's some are read three times, which costs nothing.
    inside = {name: count for name, count in loads.items() if name.startswith("model.layers.") and "proj" in name}
    assert len(inside) == 3 * 7  # four linear maps of attention and three of the MLP a layer
    twice = {name for name, count in inside.items() if count == 2}
    assert twice == {f"model.layers.{layer}.self_attn.o_proj" for layer in range(3)}
    assert set(inside.values()) == {1, 2}
