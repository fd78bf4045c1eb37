"""The table of backends. A module is imported only when its backend is created, so that `import puna` stays light."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from puna.backends.base import Backend, BackendSpec
from puna.backends.torch.layouts import LAYOUTS
from puna.config import EngineConfig
from puna.plan import Layout
from puna.report import SILENT, Reporter

BACKENDS: Mapping[str, BackendSpec] = {
    "cpu": BackendSpec(
        module="puna.backends.cpu.model",
        layouts={
            "as-is": Layout(
                resident_types={name: name for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")},
                other="Q8_0",
                kv_types=("f16", "f32"),
                row_multiple=8,
                column_multiple=32,
                value_multiple=16,
            )
        },
    ),
    "reference": BackendSpec(
        module="puna.backends.reference",
        layouts={"as-is": Layout(resident_types={}, other="F32", kv_types=("f32",))},
    ),
    "torch": BackendSpec(module="puna.backends.torch.model", layouts=LAYOUTS),
}

# Kind of device -> backend. What stands behind a colon is a number, for the backend.
DEVICES: Mapping[str, str] = {"auto": "cpu", "cpu": "cpu", "reference": "reference", "torch": "torch", "cuda": "torch"}


def backend_spec(device: str) -> BackendSpec:
    """The line of the table for a device.

    >>> backend_spec("cuda:1").module
    'puna.backends.torch.model'
    """
    return BACKENDS[DEVICES[device.partition(":")[0]]]


def create_backend(config: EngineConfig, report: Reporter = SILENT) -> Backend:
    """Make the backend that `config.device` names. Nothing is loaded yet."""
    module = importlib.import_module(backend_spec(config.device).module)
    backend: Backend = module.create(config, report)
    return backend
