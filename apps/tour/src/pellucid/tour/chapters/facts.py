"""Where a small LLaVA keeps what it was told of people it only sees, and a fact that it never learnt put in."""

from pathlib import Path

from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.multimodal import load_multimodal
from pellucid.core.report import Section
from pellucid.mllm_edit.asking_files import chosen_questions
from pellucid.mllm_edit.edit_metrics import wrongly_answered
from pellucid.mllm_edit.edit_report import edit_report
from pellucid.mllm_edit.look_report import contributions_report
from pellucid.mllm_edit.trace_report import trace_report
from pellucid.mllm_edit.values import Search
from pellucid.zoo.world_datasets import write_dataset

from ..chapter import Chapter, Setting

MODEL = "zoo:tinyworld-llava"
PICTURES, TRACED, LOOKED, UNRELATED = (100, 200), (24, 40), (40, 60), (60, 80)  # in the tour, and with --full
GUESSED = 12


def run(setting: Setting) -> Chapter:
    """Trace taught facts, look at attention, and insert one withheld fact."""
    spec = ModelSpec(MODEL)
    running = Running(workers=setting.workers)
    file = _drawn(setting) / "test.jsonl"
    traced = trace_report(
        spec, chosen_questions(file, ["taught"], setting.of(TRACED)), setting.out / "trace", setting.seed, words=True,
        running=running,
    )  # fmt: skip
    seen = contributions_report(
        spec,
        chosen_questions(file, ["taught"], setting.of(LOOKED)),
        setting.out / "seen",
        setting.seed,
        running=running,
    )
    unknown = wrongly_answered(load_multimodal(spec), chosen_questions(file, ["withheld"], GUESSED))[:1]
    edited = edit_report(
        spec, unknown, setting.out / "edit", setting.seed, layer=1, search=Search(token="answer"),
        unrelated=chosen_questions(file, ["taught", "seen"], setting.of(UNRELATED), visual=False),
    )  # fmt: skip
    [asked] = unknown
    first = edited.results["answers"][0]
    told = edited.results["probability"]["edited"]
    finding = (
        f"Asked «{asked.question}» about a picture of {asked.entity}, a small LLaVA that was never told says "
        f"«{first['before']}»; after a closed-form edit of one MLP «{first['after']}», with probability "
        f"{told['after'].value:.2f} instead of {told['before'].value:.2f}."
    )
    section = Section(
        "Facts: where does a model that sees keep what it was told?",
        [
            finding,
            "It was taught who lives where, keeps what and cooks what, and sees only pictures. Each question has a "
            "constraint, such as «this person», which is put in other words; then what the clean run computed is "
            f"restored, token by token and layer by layer (thesis 6.2). {traced.summary}",
            *traced.sections[0].text[1:],
            seen.summary,
            edited.summary,
        ],
        [*traced.sections[0].figures, *seen.sections[0].figures],
        [edited.sections[0].tables[0]],
    )
    results = {
        "trace": {name: traced.results[name] for name in ("clean", "corrupted", "best")},
        "largest": seen.results["largest"],
        "edit": {"probability": edited.results["probability"], "lost": edited.results["lost"]},
    }
    return Chapter(finding, section, results)


def _drawn(setting: Setting) -> Path:
    """Pictures and questions of the drawn world, drawn once."""
    out = setting.out / f"facts-{setting.seed}"
    sizes = {"train": 0, "validation": 0, "test": setting.of(PICTURES)}
    return out if (out / "annotations.parquet").is_file() else write_dataset("facts", out, sizes, seed=setting.seed)
