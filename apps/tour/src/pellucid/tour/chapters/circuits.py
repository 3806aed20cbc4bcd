"""Which attention heads copy an answer out of the context, in SmolLM2-135M-Instruct."""

from pellucid.core.assets import resolve_asset
from pellucid.qa_circuits.extract import extract_circuit
from pellucid.qa_circuits.facts import read_facts, stream_copy_probes
from pellucid.qa_circuits.figures import extraction_section, summary
from pellucid.qa_circuits.making import keep_answered

from ..chapter import Chapter, Setting

MODEL = "zoo:smollm2"
PROBES = 24  # enough to see the circuit within minutes; `pellucid circuits` takes as many as you like


def run(setting: Setting) -> Chapter:
    """Make probes of country facts, keep those that the model answers from the context, find the circuit."""
    candidates = stream_copy_probes(read_facts(resolve_asset("zoo:countries")), setting.seed)
    made = keep_answered(MODEL, candidates, PROBES, setting.out / "ledger" / "made", workers=setting.workers)
    found = extract_circuit(MODEL, made.probes, setting.out, seed=setting.seed, workers=setting.workers)
    section = extraction_section(found, "Circuits: from where does a language model copy an answer?")
    probe = made.probes[0]
    example = (
        f"One probe: «{probe.modified_context}» asks «{probe.question}». The text says {probe.answer}, the world says "
        f"{probe.original_answer}; {made.offered} such probes were offered to {MODEL}, {len(made.probes)} of the "
        "answers came from the text, and these are used here."
    )
    return Chapter(
        finding=summary(found),
        section=type(section)(section.title, [example, *section.text], section.figures, section.tables),
        results=found.results() | {"offered_to_the_model": made.offered},
    )
