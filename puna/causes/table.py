"""All causes. If two match at one position, the earlier wins, so specific causes come before general ones."""

from __future__ import annotations

from puna.causes import (
    accelerators,
    compiling,
    cuda,
    devices,
    distributed,
    driver,
    files,
    hub,
    install,
    llama_cpp,
    lm_studio,
    memory,
    ollama,
    server,
    system,
    tokenizer,
    versions,
    vllm,
)
from puna.causes.base import Cause

CAUSES: tuple[Cause, ...] = (
    *driver.CAUSES,
    *distributed.CAUSES,
    *llama_cpp.CAUSES,
    *ollama.CAUSES,
    *vllm.CAUSES,
    *lm_studio.CAUSES,
    *server.CAUSES,
    *hub.CAUSES,
    *files.CAUSES,
    *tokenizer.CAUSES,
    *accelerators.CAUSES,
    *compiling.CAUSES,
    *versions.CAUSES,
    *install.CAUSES,
    *devices.CAUSES,
    *cuda.CAUSES,
    *memory.CAUSES,
    *system.CAUSES,
)
