"""Which attention heads copy an answer out of the context, in SmolLM2-135M-Instruct, and what one of them tells."""

from dataclasses import replace
from typing import cast

from pellucid.core.assets import resolve_asset
from pellucid.core.loading import load
from pellucid.core.report import Mark, Passage
from pellucid.qa_circuits.attribution import attribute
from pellucid.qa_circuits.extract import Circuit, Extraction, extract_circuit
from pellucid.qa_circuits.facts import read_facts, stream_copy_probes
from pellucid.qa_circuits.figures import extraction_section
from pellucid.qa_circuits.heads import choose_head, head_statistics
from pellucid.qa_circuits.making import keep_answered

from ..chapter import Chapter, Setting

MODEL = "zoo:smollm2"
QUESTION = "What is the currency of Norway?"
DOCUMENT = (
    "Norway lies in the north of Europe, and much of it is mountains. Its capital is Oslo, at the end of a long fjord. "
    "People pay with a currency called the krone. The town of Bergen on the west coast is known for rain. In 1070 it "
    "was founded by King Olav Kyrre. The railway from Oslo to Bergen takes about seven hours."
)
PROBES = (24, 200)  # in the tour, and with --full


def run(setting: Setting) -> Chapter:
    """Make probes of country facts, keep those that the model answers from the context, find the circuit."""
    candidates = stream_copy_probes(read_facts(resolve_asset("zoo:countries")), setting.seed)
    made = keep_answered(
        MODEL, candidates, setting.of(PROBES), setting.out / "ledger" / "made", workers=setting.workers
    )
    found = extract_circuit(MODEL, made.probes, setting.out, seed=setting.seed, workers=setting.workers)
    section = extraction_section(found, "Circuits: from where does a language model copy an answer?")
    probe = made.probes[0]
    example = (
        f"One probe: «{probe.modified_context}» asks «{probe.question}». The text says {probe.answer}, the world says "
        f"{probe.original_answer}; {made.offered} such probes were offered to {MODEL}, {len(made.probes)} of the "
        "answers came from the text, and these are used here."
    )
    (circuit,) = [circuit for circuit in found.circuits if circuit.kind == "head"]
    heads = [(c.layer, cast(int, c.index)) for c in circuit.components]
    loaded = load(MODEL)
    head = choose_head(head_statistics(loaded.model, loaded.tokenizer, made.probes, heads), by="accuracy")
    source = attribute(loaded.model, loaded.tokenizer, DOCUMENT, QUESTION, head=head)
    marks = [
        Mark(s.span.start, s.span.stop, f"{rank}: {s.score:.2f}", min(1.0, max(0.15, s.score)))
        for rank, s in enumerate(source.spans, 1)
    ]
    used = (
        f"Head {head[0]}.{head[1]} of this circuit looks most at the answer's sentence. So it says where an answer "
        f"comes from while the model writes it: asked «{QUESTION}» about the text below, the model answers "
        f"«{source.answer}»."
    )
    passage = Passage(DOCUMENT, marks, f"What head {head[0]}.{head[1]} looked at for the answer, strongest first.")
    return Chapter(
        finding=_finding(found, circuit),
        section=replace(section, text=[example, *section.text, used], passages=[passage]),
        results=found.results() | {"offered_to_the_model": made.offered, "head": list(head), "answer": source.answer},
    )


def _finding(found: Extraction, circuit: Circuit) -> str:
    chances = [f"{share.value:.0%}" for share in (found.floor, circuit.score, circuit.random_score)]
    few = circuit.score.low > circuit.random_score.high
    return (
        f"Replaced by what they say of another text, {len(circuit.components)} attention heads take the chance of a "
        f"wrong answer from {chances[0]} to {chances[1]}, as many random ones to {chances[2]}: "
        + ("these few copy the answer out of the text." if few else "on so few probes that does not tell them apart.")
    )
