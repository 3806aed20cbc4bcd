"""Reports that judge pictures and encoders: scores and votes, unintended attention, and curated data."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.clips import load_clip
from pellucid.core.errors import DataError, OptionError
from pellucid.core.frechet import clip_features, fid
from pellucid.core.pictures import open_picture
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import bootstrap_mean

from .blip_vqa import load_judge
from .captioned import CaptionedImage, read_captions
from .curation import CurationJob, curation_sweep, write_curated
from .figures import contributions_figure, pictures_figure, unintended_figure
from .generation import Sampling
from .prompts_data import templated
from .reweighting import Reweighting, reweighted
from .text_contributions import contribution_map, pipeline_encoders, unintended_attention
from .tifa import read_tifa, tifa_scores
from .votes import judge_votes
from .vqa_models import load_vqa

VQA = "Salesforce/blip-vqa-capfilt-large"


def evaluate_report(
    pictures: Path,
    seed: int,
    *,
    scorers: Sequence[str],
    against: Path | None = None,
    reference: Path | None = None,
    features: str | None = None,
    tifa: Path | None = None,
    vqa: str = VQA,
    device: str = "cpu",
) -> Report:
    """Score captioned pictures, vote between them and others of the same captions, and measure FID.

    Args:
        pictures: with `captions.jsonl`, as `compose generate` writes an arm.
        seed: of the intervals.
        scorers: `vqa:MODEL` (BLIP-VQA's formula), `clip:MODEL`, or what packages offer, such as `tinyworld:binding`.
        against: the base model's pictures of the same captions, in the same order.
        reference: pictures that FID is measured from.
        features: a CLIP for FID's features; None takes the Inception network.
        tifa: a list of questions about the captions (TIFA).
        vqa: the model that answers them.
        device: where models run.

    Raises:
        DataError: pictures do not pair up.
        OptionError: there is nothing to measure.
    """
    if not scorers and reference is None and tifa is None:
        raise OptionError("there is nothing to measure: give --scorer, --tifa or --reference")
    shown, captions = _read(pictures)
    base = None
    if against is not None:
        base, others = _read(against)
        if others != captions:
            raise DataError(f"{against} and {pictures} have other captions: give pictures of the same, in one order")
    rows: list[list[Any]] = []
    results: dict[str, Any] = {"pictures": len(captions)}
    for name in scorers:
        judge = load_judge(name, device)
        found = bootstrap_mean(judge(shown, captions), seed)
        results[name] = {"mean": found}
        row: list[Any] = [name, str(found), None, None, None, None]
        if base is not None:
            votes = judge_votes(base, shown, captions, judge, seed=seed)
            results[name] |= {"gain": votes.gain, "base": votes.base, "projected": votes.projected,
                              "equal": votes.equal, "p_value": votes.p_value}  # fmt: skip
            row[2:] = [str(votes.gain), str(votes.projected), str(votes.base), votes.p_value]
        rows.append(row)
    if tifa is not None:
        answered = tifa_scores(shown, captions, read_tifa(tifa), load_vqa(vqa, device=device))
        results["tifa"] = bootstrap_mean(answered.scores, seed)
        rows.append([f"TIFA ({vqa})", str(results["tifa"]), None, None, None, None])
    if reference is not None:
        kind: Any = "inception" if features is None else clip_features(load_clip(features, device))
        results["fid"] = fid(_read(reference)[0], shown, kind)
        rows.append([f"FID ({features or 'Inception'})", f"{results['fid']:.4g}", None, None, None, None])
    told = "; ".join(f"{row[0]} {row[1]}" + (f", {row[2]} over {against}" if row[2] else "") for row in rows)
    summary = f"{len(captions)} pictures of {pictures}: {told}."
    columns = ["measure", "value", "gain", "votes for", "votes against", "p"]
    return Report(
        title="How well pictures fit their captions",
        command="compose evaluate",
        config={
            "pictures": str(pictures),
            "scorers": list(scorers),
            "against": None if against is None else str(against),
            "reference": None if reference is None else str(reference),
        },
        seed=seed,
        device=device,
        summary=summary,
        sections=[Section("Scores", [summary], [], [Table("scores", columns, rows, "95 % intervals.")])],
        results=results,
    )  # fmt: skip


def contributions_report(
    model: str, prompts: Sequence[str], seed: int, *, how: Reweighting | None = None, device: str = "cpu"
) -> Report:
    """How often text encoders look at the other object's attribute (9.2.3, figures 9.4 and 9.5).

    Args:
        model: a text-to-image model, all of whose encoders are read.
        prompts: those of the form "a_1 o_1 and a_2 o_2" are used.
        seed: of the intervals.
        how: also with this reweighting of attention.
        device: where it runs.

    Raises:
        DataError: no prompt has that form.
    """
    pipe = load_pipeline(PipelineSpec(model, device=device).resolved())
    usable = templated(prompts)
    if not usable:
        raise DataError("no prompt has the form “a red car and a blue bag”: give some that name two things so")
    encoders = pipeline_encoders(pipe)
    found = [unintended_attention(encoder, usable) for encoder in encoders]
    shares = {one.encoder: one.share(seed=seed) for one in found}
    results: dict[str, Any] = {
        "prompts": len(usable),
        "unintended": shares,
        "by_layer": {one.encoder: (one.first | one.second).mean(0).tolist() for one in found},
    }
    told = "; ".join(f"{name} in {value} of its layers" for name, value in shares.items())
    summary = f"In {len(usable)} prompts about two things, an object looks more at the other one's attribute: {told}."
    rows: list[list[Any]] = [[name, str(value), None] for name, value in shares.items()]
    if how is not None:
        after = {}
        for encoder in encoders:
            one = unintended_attention(encoder, usable, within=partial(reweighted, [encoder], usable, how))
            after[one.encoder] = one.share(seed=seed)
        results["reweighted"] = after
        summary += " Reweighted: " + "; ".join(f"{name} {value}" for name, value in after.items()) + "."
        rows = [[name, str(value), str(after[name])] for name, value in shares.items()]
    maps = {encoder.name: contribution_map(encoder, usable[0].prompt) for encoder in encoders}
    figures = [
        Figure("unintended", unintended_figure(found, seed), "Share of layers, and by layer.", summary),
        Figure("map", contributions_figure(maps), f"Contributions in the last layer: “{usable[0].prompt}”", "A map."),
    ]
    return Report(
        title=f"Whom the words of {model} look at",
        command="compose contributions",
        config={"model": model, "prompts": len(usable), "reweighting": how},
        seed=seed,
        device=device,
        summary=summary,
        sections=[
            Section("Attention", [summary], figures,
                    [Table("unintended", ["encoder", "share of layers", "reweighted"], rows, "Over prompts, 95 %.")])
        ],
        results=results,
    )  # fmt: skip


def curate_report(
    models: Sequence[str],
    prompts: Sequence[str],
    out: Path,
    *,
    scorer: str,
    seeds: Sequence[int],
    keep: int,
    sampling: Sampling,
    running: dict[str, Any],
    device: str = "cpu",
) -> Report:
    """Draw many pictures of each prompt and keep the best by a score (9.2.6: 30 of 210); `out/kept` is the data."""
    runs = []
    for number, name in enumerate(models):
        spec = PipelineSpec(name, device=device).resolved()
        job = CurationJob(spec, scorer, sampling, tuple(seeds), keep, str(out / "kept"))
        sweep = curation_sweep(job, prompts, cpus=running["cpus"], gpus=running["gpus"])
        ledger = out / "ledger" / str(number)
        summary = sweep.run(ledger, running["workers"], address=running["address"])
        if summary.failed:
            cell, text = sweep.failures(ledger)[0]
            reason = text.strip().splitlines()[-1].partition("Error: ")[2]
            raise DataError(f"{cell.prompt!r} ({summary.failed} such) could not be drawn: {reason}")
        runs.append(list(sweep.pairs(ledger)))
    kept = write_curated(out / "kept", runs, keep)
    offered = float(np.mean([row.mean for pairs in runs for _, row in pairs]))
    best = float(np.mean([score for pairs in runs for _, row in pairs for score in row.scores[:keep]]))
    told = (
        f"Of {len(seeds) * len(models)} pictures of each of {len(prompts)} prompts the best {keep} are kept: "
        f"{scorer} {best:.3f} on average, {offered:.3f} of all."
    )
    count = min(6, len(kept))
    first: list[CaptionedImage] = [kept[place * len(kept) // count] for place in range(count)]
    drawn = np.stack([np.asarray(open_picture(one.image).convert("RGB")) for one in first])
    figure = Figure(
        "kept", pictures_figure({"kept": drawn}, [one.caption for one in first]), "Some that were kept.", told
    )
    return Report(
        title="Pictures worth learning from",
        command="compose curate",
        config={"models": list(models), "prompts": len(prompts), "seeds": len(seeds), "keep": keep, "scorer": scorer},
        seed=seeds[0],
        device=device,
        summary=told,
        sections=[Section("Kept", [told, "kept/captions.jsonl lists them."], [figure])],
        results={"kept": len(kept), "mean_kept": best, "mean_all": offered, "captions": "kept/captions.jsonl"},
    )


def _read(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Captioned pictures of one size as an array."""
    found = read_captions(folder)
    shown = [np.asarray(open_picture(one.image).convert("RGB")) for one in found]
    if len({one.shape for one in shown}) > 1:
        raise DataError(f"the pictures of {folder} differ in size: give pictures of one size")
    return np.stack(shown), [one.caption for one in found]
