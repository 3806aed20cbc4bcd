"""Whether a CLIP and a diffusion model keep apart who has which colour, and whom the words of a prompt look at."""

from pathlib import Path

from pellucid.compose.judge_report import contributions_report
from pellucid.compose.match_report import read_benchmark, score_report
from pellucid.core.report import Section
from pellucid.zoo.world_datasets import write_dataset

from ..chapter import Chapter, Setting

CLIP, MODEL = "zoo:tinyworld-clip", "zoo:tinyworld-sd"
RECORDS, DIFFUSED = (80, 300), (24, 100)  # pairs of pictures and captions: in the tour, and with --full
SAMPLES, CONFIDENCE = 20, 0.95


def run(setting: Setting) -> Chapter:
    """Match captions that differ in who has which colour, and read the text encoder's attention."""
    data = _drawn(setting)
    cases = read_benchmark(data / "cases.jsonl")
    by_clip = score_report([CLIP], [], cases, data / "classes", setting.seed, template="a {}")
    some = cases[: setting.of(DIFFUSED)]
    by_noise = score_report([], [MODEL], some, None, setting.seed, samples=SAMPLES, confidence=CONFIDENCE)
    prompts = (data / "prompts.txt").read_text("utf-8").splitlines()
    words = contributions_report(MODEL, prompts, setting.seed)
    matched = by_clip.results["matching"][CLIP][0].text
    named = by_clip.results["zero_shot"][CLIP]
    finding = (
        f"A CLIP that names what a picture shows in {named.value:.0%} tells “a red star and a blue boat” from “a blue "
        f"star and a red boat” in {matched} of cases, where guessing has .25"
        + (": it sees what is there, not who has which colour." if matched.high < named.value else ".")
    )
    section = Section(
        "Composition: who has which colour?",
        [
            finding,
            "Each record has two pictures and two captions of the same words, as in Winoground; both captions have to "
            "go with their pictures (thesis 9.1).",
            f"A diffusion model can be asked, too: which caption finds the noise in the picture best (eq. 9.1)? On "
            f"{len(some)} of the records: {by_noise.summary}",
            words.summary,
        ],
        list(words.sections[0].figures),
        [by_clip.sections[0].tables[0]],
    )
    results = {
        "clip": by_clip.results["matching"][CLIP],
        "zero_shot": named,
        "diffusion_score": next(iter(by_noise.results["matching"].values())),
        "unintended": words.results["unintended"],
    }
    return Chapter(finding, section, results)


def _drawn(setting: Setting) -> Path:
    """Pairs of the drawn world, drawn once."""
    out = setting.out / f"compositions-{setting.seed}"
    sizes = {"train": 0, "validation": 160, "test": setting.of(RECORDS)}
    if not (out / "prompts.txt").is_file():
        write_dataset("compositions", out, sizes, seed=setting.seed)
    return out
