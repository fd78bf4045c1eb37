"""Assertions of Meta's package, as errors that say what to do: code that catches AssertionError still works."""

from __future__ import annotations

from puna.errors import ModelNotFoundError, UsageError


class MetaAssertionError(UsageError, AssertionError):
    """An argument that an assertion of Meta's package refuses."""


class NoDialogError(MetaAssertionError, IndexError):
    """A dialog without a user's message, for which Meta's package raises IndexError."""


class NoCheckpointError(ModelNotFoundError, AssertionError):
    """A checkpoint folder without a checkpoint."""
