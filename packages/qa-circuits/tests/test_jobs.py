"""The scoring sweep on a tiny saved model: workers, batches, offload and 4-bit change nothing that they should not."""

import numpy as np
import pytest
from pellucid.core.loading import ModelSpec
from pellucid.core.sweeps import session
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits import jobs
from pellucid.qa_circuits.components import Component
from pellucid.qa_circuits.jobs import ScoreJob, answer_sweep, score_sweep
from pellucid.qa_circuits.probes import Probe
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def probe(number):
    names = ["Rex", "Tom", "Kit", "Max", "Leo", "Ian"]
    subject, other = names[number], names[(number + 1) % 6]
    more = "Kit sleeps . " * (number % 3)
    return Probe(
        subject, f"Who owns {subject} ?", "Anna", "Ben Gill", f"{more}Anna owns {subject} .",
        f"{more}Ben Gill owns {subject} .", f"Eve owns {other} .", f"Who owns {other} ?",
    )  # fmt: skip


PROBES = [probe(i) for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    text = " ".join(t for p in PROBES for t in (p.context, p.modified_context, p.corrupted_context, p.question))
    words = ["<unk>", "<s>", "</s>", "Context", "Question", "Answer", ":", *dict.fromkeys(text.split())]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>").save_pretrained(path)
    tiny_decoder("llama").save_pretrained(path)
    return path


def scores(folder, ledger, workers=0, **fields):
    spec = ModelSpec(str(folder), **fields).resolved()
    sweep = score_sweep(ScoreJob(spec, "plain", "direct", ("head", "attention", "mlp")), PROBES)
    summary = sweep.run(ledger, workers=workers)
    assert (summary.done, summary.failed) == (len(PROBES), 0), sweep.failures(ledger)
    return dict(sweep.pairs(ledger)), summary


def as_array(rows):
    return np.array([rows[p].scores for p in PROBES])


def test_one_row_a_probe_with_every_component(folder, tmp_path):
    rows, summary = scores(folder, tmp_path / "ledger")
    assert as_array(rows).shape == (6, 3 * 4 + 3 + 3)
    assert {(row.layers, row.heads) for row in rows.values()} == {(3, 4)}
    assert summary.peak_memory > 1e6


def test_batches_change_nothing(folder, tmp_path, monkeypatch):
    whole, _ = scores(folder, tmp_path / "whole")
    monkeypatch.setattr(jobs, "BATCH", 1)
    single, _ = scores(folder, tmp_path / "single")
    np.testing.assert_allclose(as_array(single), as_array(whole), atol=1e-5)


def test_the_key_holds_the_model_but_not_where_it_is_put(folder, tmp_path):
    spec = ModelSpec(str(folder)).resolved()
    spread = ModelSpec(str(folder), max_memory={"cpu": "1GB"}).resolved()
    other = ModelSpec(str(folder), dtype="bfloat16").resolved()
    job = [ScoreJob(s, "plain", "direct", ("head",)) for s in (spec, spread, other)]
    keys = [score_sweep(j, PROBES).keys for j in job]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    sets = ScoreJob(spec, "plain", "direct", ("head",), ((Component("head", 0, 1),),))
    assert not set(keys[0]) & set(score_sweep(sets, PROBES).keys)


def test_offload_to_disk_changes_nothing(folder, tmp_path):
    whole, _ = scores(folder, tmp_path / "whole")
    placed = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb"), "cpu")
    placed |= {"model.layers.1": "disk", "model.layers.2": "disk", "lm_head": "disk"}
    spread, _ = scores(folder, tmp_path / "disk", device_map=placed, offload_folder=str(tmp_path / "weights"))
    np.testing.assert_allclose(as_array(spread), as_array(whole), atol=1e-5)


def test_an_answering_sweep_keeps_what_the_model_says(folder, tmp_path):
    sweep = answer_sweep(ModelSpec(str(folder)).resolved(), PROBES, "plain")
    sweep.run(tmp_path / "ledger")
    rows = sweep.rows(tmp_path / "ledger")
    assert len(rows) == 6
    assert not any(row.kept for row in rows)  # the model is random


@pytest.mark.ray
def test_the_same_rows_to_the_bit_for_any_number_of_workers(folder, tmp_path):
    inline, _ = scores(folder, tmp_path / "0")
    with session():  # the first sweep starts a Ray for two workers
        for workers in (2, 1):
            rows, _ = scores(folder, tmp_path / str(workers), workers)
            assert rows == inline
