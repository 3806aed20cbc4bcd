"""Find where a multimodal language model keeps a fact, and correct it there."""
