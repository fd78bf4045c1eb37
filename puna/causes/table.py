"""All causes. Of two whose wordings are found in one place the earlier is meant: the more specific stand before the general."""

from __future__ import annotations

from puna.causes import cuda, devices, distributed, driver, files, install, memory, server, tokenizer
from puna.causes.base import Cause

CAUSES: tuple[Cause, ...] = (
    *driver.CAUSES,
    *distributed.CAUSES,
    *server.CAUSES,
    *files.CAUSES,
    *tokenizer.CAUSES,
    *install.CAUSES,
    *devices.CAUSES,
    *cuda.CAUSES,
    *memory.CAUSES,
)
