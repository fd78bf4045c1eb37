"""Points in time as APIs write them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def rfc3339(at: float | None = None) -> str:
    """Seconds since 1970, or the time now, as RFC 3339 has it.

    >>> rfc3339(1_700_000_000.5)
    '2023-11-14T22:13:20.500000Z'
    """
    return datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat().replace("+00:00", "Z")
