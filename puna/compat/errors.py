"""What Meta's package asserts, as errors that say what to do: code that catches AssertionError goes on working."""

from __future__ import annotations

from puna.errors import ModelNotFoundError, UsageError


class MetaAssertionError(UsageError, AssertionError):
    """An argument that Meta's package refuses by an assertion."""


class NoDialogError(MetaAssertionError, IndexError):
    """A dialog without a user's message, which Meta's package finds by an index that is out of range."""


class NoCheckpointError(ModelNotFoundError, AssertionError):
    """A checkpoint folder without a checkpoint."""
