"""What slows down a working CPU: a governor that keeps the clock low, heat, a battery."""

from __future__ import annotations

from collections.abc import Iterator

from puna.machine.finding import Finding
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.resources import whole

CPUS = "/sys/devices/system/cpu"
# Drivers whose "powersave" raises the clock with the load; others keep it low.
LIVELY_DRIVERS = ("intel_pstate", "amd-pstate", "amd-pstate-epp", "amd_pstate", "amd_pstate_epp")
HOT_MILLIDEGREES = 95_000
COLDEST_MOLTEN = 150_000  # a sensor with a higher value is broken
POWER_SAVER = "a1841308-3541-4fab-bc81-f71556f20b4a"  # Windows's scheme, whatever its name in the user's language


def power(patient: Patient) -> Iterator[Finding]:
    """Notes and warnings only: models run in any case."""
    yield from {"Linux": _linux, "Darwin": _macos, "Windows": _windows}.get(patient.host.system, _nothing)(patient)


def _linux(patient: Patient) -> Iterator[Finding]:
    yield from _governor(patient)
    yield from _heat(patient)
    if on_battery(patient.host):
        yield _battery(patient)


def _governor(patient: Patient) -> Iterator[Finding]:
    folder = f"{CPUS}/cpu0/cpufreq"
    governor, driver, preference = (
        (patient.host.read(f"{folder}/{name}") or "").strip()[:40]
        for name in ("scaling_governor", "scaling_driver", "energy_performance_preference")
    )
    if governor == "powersave" and driver not in LIVELY_DRIVERS:
        found = f"the CPU's governor is powersave (driver {driver or 'unknown'})"
        effect = "the clock stays at its lowest: models run several times slower"
        yield Finding("power.governor", "warning", found, effect, patient.remedy("set-governor"), device="cpu")
    elif preference == "power":
        found = "the CPU is set to save power rather than run fast"
        effect = "models run slower than possible"
        yield Finding("power.governor", "note", found, effect, patient.remedy("power-profile"), device="cpu")


def _heat(patient: Patient) -> Iterator[Finding]:
    host, zones = patient.host, "/sys/class/thermal"
    sensors = [name for name in host.listing(zones)[:64] if name.startswith("thermal_zone")]
    heat = max((whole(host.read(f"{zones}/{name}/temp")) or 0 for name in sensors), default=0)
    throttled = whole(host.read(f"{CPUS}/cpu0/thermal_throttle/package_throttle_count")) or 0
    if HOT_MILLIDEGREES <= heat < COLDEST_MOLTEN:
        found, effect = f"a sensor reads {heat / 1000:.0f} °C", "the CPU lowers its clock, so models run slower"
        yield Finding("power.heat", "warning", found, effect, patient.remedy("cool-down"), device="cpu")
    elif throttled:
        found, effect = f"heat has lowered the CPU's clock {throttled} times since the start", "long answers may slow down"
        yield Finding("power.heat", "note", found, effect, patient.remedy("cool-down"), device="cpu")


def on_battery(host: Host) -> bool:
    """Whether the machine runs on its own battery (a mouse's does not count)."""
    root = "/sys/class/power_supply"
    supplies = [f"{root}/{name}" for name in host.listing(root)[:32]]
    batteries = [
        folder
        for folder in supplies
        if (host.read(f"{folder}/type") or "").strip() == "Battery" and (host.read(f"{folder}/scope") or "").strip() != "Device"
    ]
    return any((host.read(f"{folder}/status") or "").strip() == "Discharging" for folder in batteries)


def _battery(patient: Patient) -> Finding:
    effect = "many machines then lower their clock: models may run slower"
    return Finding("power.battery", "note", "the machine runs on battery", effect, patient.remedy("plug-in"), device="cpu")


def _macos(patient: Patient) -> Iterator[Finding]:
    output = patient.host.run("pmset", "-g", "batt")
    if output is not None and "'Battery Power'" in output.text:
        yield _battery(patient)


def _windows(patient: Patient) -> Iterator[Finding]:
    output = patient.host.run("powercfg", "/getactivescheme")
    if output is not None and POWER_SAVER in output.text.lower():
        effect = "it keeps the clock low: models run slower"
        found = "the Windows power plan is Power saver"
        yield Finding("power.governor", "warning", found, effect, patient.remedy("power-profile"), device="cpu")


def _nothing(_: Patient) -> Iterator[Finding]:
    yield from ()
