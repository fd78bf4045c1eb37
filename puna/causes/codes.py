"""Numbers with which CUDA and NVML say why they did not start, and how programs print them."""

from __future__ import annotations

# From NVIDIA's cuda.h and nvml.h.
CUDA = {
    "2": "out of memory",
    "3": "not initialized",
    "34": "the library is a stub, for linking only",
    "35": "the driver is older than the program",
    "46": "the device is in use or unavailable",
    "100": "no device",
    "101": "no device of that number",
    "205": "memory could not be mapped",
    "304": "a call of the operating system failed",
    "802": "the system is not ready",
    "803": "driver and library are of different versions",
    "804": "forward compatibility does not support this card",
    "999": "unknown",
}
NVML = {
    "4": "no permission",
    "9": "the driver is not loaded",
    "12": "a library is missing",
    "15": "the GPU is lost",
    "18": "driver and library are of different versions",
    "999": "unknown",
}


def cuda_start_failed(code: str) -> tuple[str, ...]:
    """How Ollama, numba and their kin print that CUDA's start returned a code: the library was found, and is not what failed.

    >>> cuda_start_failed("802")[-1]
    '[802] call to cuinit'
    """
    return (
        f"unable to load ... init failure: {code}",
        f"init failure: {code}",
        f"cuinit err: {code}",
        f"[{code}] call to cuinit",
    )


def nvml_start_failed(code: str) -> tuple[str, ...]:
    """The same for NVML, the driver's library for nvidia-smi."""
    return (f"unable to load ... nvml vram init failure: {code}", f"nvml vram init failure: {code}")
