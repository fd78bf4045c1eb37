"""Published models that fit a device, and the best of them for it.

found = choices(EngineConfig(), device)        # all that fit, largest first
best(EngineConfig(), device)                   # three chat models that run well, best first
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from puna.config import EngineConfig
from puna.errors import UsageError
from puna.hub.published import PUBLISHED, RECOMMENDED, Source, require_types, source_of
from puna.machine.planning.devices import PlannedDevice
from puna.machine.planning.fit import Fit, fit
from puna.machine.planning.known_models import checkpoint_of
from puna.model.spec import ModelConfig

USEFUL_PER_S = 8.0  # tokens a second, six English words: faster than people read
SHOWN = 3
UNMEASURED_BYTES = 1 << 30  # limit for a CPU of unknown speed: larger models may be slow on it


class ModelChoice(NamedTuple):
    """A published model as it is fetched, on a device."""

    source: Source
    fit: Fit

    @property
    def name(self) -> str:
        return self.source.model.name

    @property
    def is_whole(self) -> bool:
        """Whether it fits at the file's precision, without layers in main memory."""
        return not self.fit.plan.num_offloaded and self.fit.plan.weights == "as-is"

    @property
    def is_quick(self) -> bool:
        """Whether it fits whole and, if the speed is known, answers faster than people read."""
        speed = self.fit.speed
        if not self.is_whole:
            return False
        if speed is None:
            return self.fit.device.is_gpu or self.source.num_bytes <= UNMEASURED_BYTES
        return speed.decode_per_s >= USEFUL_PER_S


def choices(engine: EngineConfig, device: PlannedDevice, names: Iterable[str] = PUBLISHED) -> list[ModelChoice]:
    """The named models that fit, largest first."""
    sources = [source for source in map(source_of, names) if source is not None]
    fits = {one: _fit(*one, engine, device) for one in {(source.model.config, source.kind) for source in sources}}
    found = [(source, fits[source.model.config, source.kind]) for source in sources]
    fitting = [ModelChoice(source, made) for source, made in found if made is not None and made.fits]
    return sorted(fitting, key=lambda one: (-one.source.num_bytes, one.name))


def best(engine: EngineConfig, device: PlannedDevice, count: int = SHOWN) -> list[ModelChoice]:
    """Recommended chat models that fit and are fast, best first."""
    found = {one.name: one for one in choices(engine, device, RECOMMENDED) if one.is_quick}
    return [found[name] for name in RECOMMENDED if name in found][:count]


def _fit(config: ModelConfig, kind: str, engine: EngineConfig, device: PlannedDevice) -> Fit | None:
    """None if the model cannot use the settings: the context is too long, or the devices cannot share its heads evenly."""
    try:
        return fit(checkpoint_of(config, *require_types(kind, kind)), engine, device, device.count)
    except UsageError:
        return None
