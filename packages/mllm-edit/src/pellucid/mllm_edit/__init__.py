"""Find where a multimodal language model keeps a fact, and correct it there: its questions, their data and figures."""

from pellucid.core.lazy import lazy_exports

_HOMES = {
    "VisualQuestion": "questions",
    "Worked": "annotator",
    "annotated": "annotator",
    "annotation_sweep": "annotator",
    "find_faults": "constraints_data",
    "predict_correctness": "prediction",
    "read_constraints": "constraints_data",
    "read_encyclopedic_vqa": "encyclopedic_vqa",
    "read_questions": "questions",
    "write_questions": "questions",
    "write_review": "annotator",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
