import os
import subprocess
import sys

import pytest
import torch
from pellucid.compose.training import CHECKPOINT, Batch, Task, chance_of, fit
from pellucid.core.errors import DataError, OptionError


def task(out=None, steps=12, stop=None, wrong=None, **more):
    """A small regression; `stop` kills it before that step, `wrong` gives no number there."""
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 2, requires_grad=True), torch.zeros(2, requires_grad=True)

    def batch(step):
        if step == stop:
            raise KeyboardInterrupt
        inputs = torch.randn(4, 3, generator=chance_of(7, step))
        loss = (torch.tanh(inputs @ weight) + bias - inputs.sum(1, keepdim=True)).square().mean()
        return Batch(loss * (float("nan") if step == wrong else 1), tuple(f"p{row}" for row in range(10)))

    return Task("Regression", {"weight": weight, "bias": bias}, batch, 0.1, steps, out=out, **{"every": 4} | more)


def by_hand(steps, decays):
    """The slow twin: torch's own Adam and step schedule."""
    asked = task()
    parameters = list(asked.parameters.values())
    optimiser = torch.optim.Adam(parameters, asked.rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(share * steps) for share in decays])
    for step in range(steps):
        optimiser.zero_grad()
        asked.batch(step).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
    return asked.parameters


def test_it_is_adam_with_a_stepwise_rate():
    asked = task(decays=(0.25, 0.75))
    fitted = fit(asked)
    for name, weight in by_hand(12, (0.25, 0.75)).items():
        torch.testing.assert_close(asked.parameters[name], weight, rtol=1e-6, atol=1e-7)
    assert len(fitted.losses) == 12
    assert all(weight.grad is None for weight in asked.parameters.values())


@pytest.mark.parametrize("stop", [3, 4, 6, 11])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, stop):
    whole = task(tmp_path / "whole")
    losses = fit(whole).losses
    with pytest.raises(KeyboardInterrupt):
        fit(task(tmp_path / "cut", stop=stop))
    rest = task(tmp_path / "cut")
    fitted = fit(rest)
    assert fitted.losses == losses
    for name, weight in whole.parameters.items():
        assert torch.equal(rest.parameters[name], weight)


def test_a_finished_run_is_not_run_again_and_fresh_starts_anew(tmp_path):
    first = task(tmp_path)
    losses = fit(first).losses
    again = task(tmp_path, stop=0)
    assert fit(again).losses == losses
    assert torch.equal(again.parameters["weight"], first.parameters["weight"])
    with pytest.raises(KeyboardInterrupt):
        fit(task(tmp_path, stop=0, resume=False))


def test_a_loss_that_is_no_number_names_step_and_batch():
    asked = task(wrong=5)
    with pytest.raises(DataError, match=r"loss is nan at step 5, in the batch of p0, .*, p7 and 2 more.*than 0.1"):
        fit(asked)
    clean = task(steps=5)
    fit(clean)
    assert torch.equal(asked.parameters["weight"], clean.parameters["weight"])  # nothing was changed by it


def test_another_run_s_checkpoint_is_refused(tmp_path):
    fit(task(tmp_path, identity={"seed": 1}))
    with pytest.raises(DataError, match="seed=1, not 2"):
        fit(task(tmp_path, identity={"seed": 2}))
    with pytest.raises(DataError, match="steps=12, not 13"):
        fit(task(tmp_path, steps=13, identity={"seed": 1}))
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[:-8])
    with pytest.raises(DataError, match="cannot be read"):
        fit(task(tmp_path, identity={"seed": 1}))


def test_mixed_precision_resumes_in_a_process_of_its_own(tmp_path):
    """accelerate keeps one precision a process, so this one runs in another."""
    code = f"""
import torch
from pathlib import Path
from pellucid.core.errors import OptionError
from pellucid.compose.training import Batch, Task, chance_of, fit

def task(out, stop=None, precision="bf16"):
    weight = torch.ones(64, 64, requires_grad=True)
    def batch(step):
        if step == stop:
            raise KeyboardInterrupt
        told = torch.randn(8, 64, generator=chance_of(0, step)) @ weight
        assert told.dtype == torch.bfloat16
        return Batch(told.float().square().mean(), ("a",))
    place = Path({str(tmp_path)!r}) / out
    return Task("Half", {{"weight": weight}}, batch, 0.1, 6, out=place, every=2, precision=precision)

whole, rest = task("whole"), task("cut")
fit(whole)
try:
    fit(task("cut", stop=3))
except KeyboardInterrupt:
    fit(rest)
assert torch.equal(whole.parameters["weight"], rest.parameters["weight"])
assert whole.parameters["weight"].dtype == torch.float32
try:
    fit(task("other", precision="no"))
except OptionError as error:
    print(error)
"""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True)
    assert "precision 'no' on cpu: accelerate trained with other settings" in run.stdout, run.stderr


def test_options_that_cannot_work_are_told():
    for wrong in ({"steps": 0}, {"every": 0}):
        with pytest.raises(OptionError, match="give 1 or more"):
            fit(task(**wrong))
    with pytest.raises(OptionError, match="precision 'fp8'"):
        fit(task(precision="fp8"))
    with pytest.raises(OptionError, match="nothing to train"):
        fit(Task("None", {}, task().batch, 0.1, 1))
    with pytest.raises(OptionError, match="the rate is -1"):
        fit(Task("Rate", task().parameters, task().batch, -1, 1))
