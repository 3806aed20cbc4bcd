"""Two passes against one forward pass a component, for all heads, attention layers and MLPs of one model."""

import time
from typing import Any

import numpy as np
import torch
from pellucid.core.anatomy import decoder_anatomy
from pellucid.core.assets import resolve_asset
from pellucid.core.loading import load
from pellucid.core.statistics import bootstrap_mean
from pellucid.qa_circuits.components import all_components
from pellucid.qa_circuits.effects import patched_scores
from pellucid.qa_circuits.facts import copy_probes, read_facts
from pellucid.qa_circuits.prompts import encode
from pellucid.qa_circuits.reference import reference_scores


def measure(model: str = "zoo:smollm2", probes: int = 3, seed: int = 0, threads: int = 2) -> dict[str, Any]:
    """Time both ways on the same probes, in turn, in this process; the first probe of each is a warm-up.

    Returns:
        Seconds a probe each way, their ratio with an interval over probes, and the largest difference in score.
    """
    torch.set_num_threads(threads)
    loaded = load(model)
    anatomy = decoder_anatomy(loaded.model)
    sets = [(c,) for c in all_components(anatomy.layers, anatomy.heads)]
    drawn = copy_probes(read_facts(resolve_asset("zoo:countries")), probes + 1, seed)
    encoded = encode(loaded.tokenizer, drawn)
    fast, slow, differences = [], [], []
    for number, probe in enumerate(encoded):
        started = time.perf_counter()
        quick = patched_scores(loaded.model, [probe], sets).scores[0]
        middle = time.perf_counter()
        # The warm-up need not run all components the slow way.
        obvious = reference_scores(loaded.model, probe, sets if number else sets[:5])
        ended = time.perf_counter()
        if number:
            fast.append(middle - started)
            slow.append(ended - middle)
            differences.append(float((quick - obvious).abs().max()))
    return {
        "model": model,
        "components": len(sets),
        "probes": probes,
        "threads": threads,
        "mean_prompt_tokens": float(np.mean([len(e.clean) for e in encoded[1:]])),
        "two_pass_seconds": bootstrap_mean(fast, seed),
        "one_forward_a_component_seconds": bootstrap_mean(slow, seed),
        "ratio": bootstrap_mean(np.array(slow) / np.array(fast), seed),
        "largest_difference": max(differences),
    }
