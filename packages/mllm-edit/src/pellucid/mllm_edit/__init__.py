"""Find where a multimodal language model keeps a fact, and correct it there."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "EditCase": "edit_metrics",
    "MultEdit": "multedit",
    "Search": "values",
    "Trace": "tracing",
    "TraceJob": "trace_jobs",
    "VisualQuestion": "questions",
    "Worked": "annotator",
    "annotated": "annotator",
    "annotation_sweep": "annotator",
    "answer_probabilities": "answering",
    "edit_scores": "edit_metrics",
    "edit_sweep": "edit_study",
    "find_faults": "constraints_data",
    "fine_tune": "fine_tuning",
    "generate_answers": "answering",
    "in_words": "text_backbone",
    "multimodal_causal_trace": "tracing",
    "noise_probe": "corruption",
    "outcomes": "edit_study",
    "predict_correctness": "prediction",
    "prepare": "inputs",
    "read_constraints": "constraints_data",
    "read_encyclopedic_vqa": "encyclopedic_vqa",
    "read_questions": "questions",
    "replacement_probe": "corruption",
    "solve_values": "multedit",
    "trace_sweep": "trace_jobs",
    "transfers": "contributions",
    "write_questions": "questions",
    "write_review": "annotator",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
