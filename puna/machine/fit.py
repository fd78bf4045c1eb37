"""Will it fit? Bytes itemised per device and process, the verdict, and the nearest settings that do fit."""

from __future__ import annotations

from puna.config import ModelConfig


def ways_to_fit(model: ModelConfig, file_type: str, device_bytes: int) -> tuple[str, ...]:
    """At most three settings with which a model whose matrices are `file_type` ("F16") runs on a GPU with `device_bytes` free.

    Each is a line for people, flags first: "--weights int8: 6.9 GiB of weights, about 45 tok/s".
    """
    return ()
