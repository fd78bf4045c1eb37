"""LLM: puts the parts together. START READING HERE."""


class LLM:
    """A model, loaded."""
