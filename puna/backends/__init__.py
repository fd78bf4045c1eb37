"""The table of backends. A module is imported only when its backend is created, so that `import puna` stays light."""

from __future__ import annotations

import importlib

from puna.backends.base import Backend, BackendSpec
from puna.config import EngineConfig
from puna.plan import Layout
from puna.report import SILENT, Reporter

BACKENDS: dict[str, BackendSpec] = {
    "cpu": BackendSpec(
        module="puna.backends.cpu.model",
        layout=Layout(
            resident_types={name: name for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")},
            other="Q8_0",
            kv_types=("f16", "f32"),
            row_multiple=8,
            column_multiple=32,
            value_multiple=16,
        ),
    ),
    "reference": BackendSpec(
        module="puna.backends.reference",
        layout=Layout(resident_types={}, other="F32", kv_types=("f32",)),
    ),
}

DEFAULT_BACKEND = "cpu"


def backend_spec(device: str) -> BackendSpec:
    """The line of the table for `device`; "auto" is the default backend."""
    return BACKENDS[DEFAULT_BACKEND if device == "auto" else device]


def create_backend(config: EngineConfig, report: Reporter = SILENT) -> Backend:
    """Make the backend that `config.device` names. Nothing is loaded yet."""
    module = importlib.import_module(backend_spec(config.device).module)
    backend: Backend = module.create(config, report)
    return backend
