"""New weights come and go to the bit, in a module and in a pipeline's part."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from pellucid.core.fine_tuned import FineTuned


@pytest.mark.parametrize("name", ["0.weight", "unet.0.weight"])
def test_weights_are_put_in_and_out_of_place(name: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))
    model = SimpleNamespace(unet=module) if name.startswith("unet") else module
    before, new = module[0].weight.data.clone(), torch.ones(2, 3, dtype=torch.float64)
    tuned = FineTuned({name: new}, (1.0,), 0.1)
    assert tuned.touched == 6
    with suppress(RuntimeError), tuned.applied(model):
        assert torch.equal(module[0].weight, new.float())
        raise RuntimeError
    assert torch.equal(module[0].weight, before)
    with pytest.raises(AttributeError), FineTuned({"none": new}, (), 0.0).applied(model):
        pass
