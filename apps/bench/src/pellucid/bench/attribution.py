"""Attribution while generating: what it costs beside plain generation, and how right it is beside other ways."""

import importlib.util
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pellucid.core.assets import resolve_asset
from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.progress import progress
from pellucid.core.report import Table
from pellucid.core.statistics import bootstrap_difference, bootstrap_mean
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits.attention_rows import Head, attention_rows
from pellucid.qa_circuits.attribution import attribute
from pellucid.qa_circuits.attribution_study import SourceJob, check_sources, compare_sources
from pellucid.qa_circuits.evaluation_sets import Located, synthetic
from pellucid.qa_circuits.facts import read_facts, stream_copy_probes
from pellucid.qa_circuits.making import keep_answered
from pellucid.qa_circuits.probes import stands
from pellucid.qa_circuits.prompts import GREEDY, pad_token, render

from .peaks import highest_mb, in_a_process

LONGEST = 30  # sentences in a document
TOKENS = 16  # in an answer at most
LENGTHS = (2000, 4000, 8000)  # tokens of the memory's measurement
ABLATIONS = 64  # ContextCite's default


def measure(
    out: Path,
    model: str = "zoo:smollm2",
    head: Head = (23, 2),
    documents: int = 40,
    encoder: str = "zoo:minilm",
    seed: int = 1,
    threads: int = 2,
) -> dict[str, Any]:
    """Measure all of it in one run on documents of 1 to 30 sentences that the model answers from.

    Args:
        out: folder for ledgers.
        model: what answers.
        head: (layer, head) that attributes, chosen on other probes.
        documents: how many.
        encoder: of the sentence-similarity baseline.
        seed: of the documents; another than that of the probes that chose the head.
        threads: of the processor.
    """
    torch.set_num_threads(threads)
    stream = stream_copy_probes(read_facts(resolve_asset("zoo:countries")), seed, LONGEST)
    made = keep_answered(model, stream, documents, out / "ledger" / "made", cpus=threads)
    questions = synthetic(made.probes, 2).items
    loaded = load(model)
    found: dict[str, Any] = {"documents": len(questions), "head": list(head), "threads": threads}
    found["generation"] = _generation(loaded, questions, head, seed)
    job = SourceJob(
        ModelSpec(model).resolved(),
        head,
        check_sources(("self", "iterative", "similarity", "gradient")),
        encoder,
        "sentence",
        "plain",
        TOKENS,
        False,
    )
    found["sources"] = compare_sources(job, questions, out / "ledger" / "sources", seed=seed, cpus=threads)
    found["context_cite"] = _context_cite(loaded, questions, head, seed)
    found["memory"] = memory(threads)
    return found


def summary(found: dict[str, Any]) -> str:
    """What `measure` found, in a few sentences."""
    rest = "; ".join(f"{m.method} {m.accuracy} ({m.seconds.value:.2f} s)" for m in found["sources"].methods)
    cited = found["context_cite"]
    peer = cited if isinstance(cited, str) else f"ContextCite {cited['accuracy']} ({cited['seconds'].value:.2f} s)"
    ends = found["memory"][-1]
    return (
        f"Generating with attribution takes {found['generation']['ratio']} times as long as without. Right sentence, "
        f"and seconds a question: {rest}; {peer}. At {ends['tokens']} tokens attribution adds {ends['rows_mb']:.0f} MB "
        f"to the peak of a small model's forward pass; asking for its attention maps adds {ends['maps_mb']:.0f} MB."
    )


def _generation(loaded: Loaded, questions: Sequence[Located], head: Head, seed: int) -> dict[str, Any]:
    """Seconds of the same tokens generated with and without attribution, in turn; the first document warms up."""
    plain, attributed, passes = [], [], []
    count = 0

    def counting(*_: Any) -> None:
        nonlocal count
        count += 1

    hook = loaded.model.register_forward_hook(counting)
    with progress("Generating", len(questions)) as advance:
        for number, asked in enumerate([questions[0], *questions]):
            count = 0
            began = time.perf_counter()
            attribute(loaded.model, loaded.tokenizer, asked.context, asked.question, head=head, max_new_tokens=TOKENS)
            middle = time.perf_counter()
            steps = count
            _generate(loaded, asked, steps)
            ended = time.perf_counter()
            if number:
                attributed.append(middle - began)
                plain.append(ended - middle)
                passes.append(steps)
                advance(1)
    hook.remove()
    return {
        "plain_seconds": bootstrap_mean(plain, seed),
        "attributed_seconds": bootstrap_mean(attributed, seed),
        "ratio": bootstrap_mean(np.array(attributed) / np.array(plain), seed),
        "tokens": float(np.mean(passes)),
    }


def _generate(loaded: Loaded, asked: Located, steps: int) -> None:
    prompt = render(loaded.tokenizer, asked.context, asked.question)
    ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=steps,
            max_new_tokens=steps,
            pad_token_id=pad_token(loaded.tokenizer),
            **GREEDY,
        )


def _context_cite(loaded: Loaded, questions: Sequence[Located], head: Head, seed: int) -> dict[str, Any] | str:
    """ContextCite by its own package, or why there is no row of it: the run goes on without."""
    if importlib.util.find_spec("context_cite") is None:
        return "ContextCite is not installed (extra context-cite)"
    try:
        return _cited(loaded, list(itertools.islice(questions, 0, None, 4)), head, seed)
    except Exception as error:  # it raises what its libraries raise, such as a download of sentence rules that fails
        said = [line for line in str(error).strip().splitlines() if line.strip(" *")] or ["no message"]
        return f"ContextCite failed: {type(error).__name__}: {said[0].strip()}"


def _cited(loaded: Loaded, some: Sequence[Located], head: Head, seed: int) -> dict[str, Any]:
    """ContextCite with its own prompt and number of ablations, beside the head, on a quarter of the documents."""
    from context_cite import ContextCiter

    right, own, seconds = [], [], []
    with progress("ContextCite", len(some)) as advance:
        for asked in some:
            began = time.perf_counter()
            citer = ContextCiter(loaded.model, loaded.tokenizer, asked.context, asked.question, num_ablations=ABLATIONS)
            scores = np.asarray(citer.get_attributions(verbose=False))
            seconds.append(time.perf_counter() - began)
            right.append(float(stands(asked.answer, citer.sources[int(scores.argmax())])))
            spans = attribute(
                loaded.model, loaded.tokenizer, asked.context, asked.question, head=head, k=1, max_new_tokens=TOKENS
            ).spans
            own.append(float(bool(spans) and stands(asked.answer, spans[0].span.of(asked.context))))
            advance(1)
    return {
        "documents": len(some),
        "accuracy": bootstrap_mean(right, seed),
        "behind": bootstrap_difference(np.array(own), np.array(right), seed, paired=True),
        "seconds": bootstrap_mean(seconds, seed),
    }


def memory(threads: int = 2, lengths: Sequence[int] = LENGTHS) -> list[dict[str, float]]:
    """Peak memory of one forward pass of a small random Llama, each in a fresh process (Linux): what is added to it."""
    rows = []
    for tokens in lengths:
        plain, recorded, maps = (in_a_process(_peak, tokens, way, threads) for way in ("plain", "rows", "maps"))
        rows.append({"tokens": tokens, "plain_mb": plain, "rows_mb": recorded - plain, "maps_mb": maps - plain})
    return rows


def _peak(tokens: int, way: str, threads: int) -> float:
    torch.set_num_threads(threads)
    model = tiny_decoder("llama", max_position_embeddings=tokens)
    ids = torch.randint(3, 97, (1, tokens), generator=torch.Generator().manual_seed(0))
    before = highest_mb(anew=True)
    with torch.inference_mode():
        if way == "rows":
            with attention_rows(model, [(1, 0)]):
                model(ids, logits_to_keep=1)
        elif way == "maps":
            model.set_attn_implementation("eager")
            model(ids, logits_to_keep=1, output_attentions=True)
        else:
            model(ids, logits_to_keep=1)
    return highest_mb() - before


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of what `measure` found: methods, and memory."""
    rows: list[list[Any]] = [
        [m.method, m.accuracy.value, m.accuracy.low, m.accuracy.high, m.seconds.value] for m in found["sources"].methods
    ]
    cited = found["context_cite"]
    if not isinstance(cited, str):
        a = cited["accuracy"]
        rows.append(["ContextCite (a quarter of the documents)", a.value, a.low, a.high, cited["seconds"].value])
    return [
        Table(
            "sources",
            ["method", "right sentence", "low", "high", "seconds a question"],
            rows,
            "The head's and ContextCite's seconds include generating the answer; the others' come on top of that.",
        ),
        Table(
            "memory",
            ["tokens", "plain forward, MB", "rows add, MB", "attention maps add, MB"],
            [[m["tokens"], m["plain_mb"], m["rows_mb"], m["maps_mb"]] for m in found["memory"]],
            "Growth of a fresh process's peak memory in one forward pass of a tiny random Llama.",
        ),
    ]
