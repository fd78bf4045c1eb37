"""The network that several processes with one model need, and that fetching a model needs. This probe sends nothing.

torchrun's variables may come from another program; ports, names and interfaces matter only to several processes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from puna.machine.child import ask
from puna.machine.finding import Finding, Remedy, State
from puna.machine.host import Host
from puna.machine.probes.base import Patient
from puna.machine.probes.python import this_python
from puna.machine.remedies import quoted
from puna.resources import whole

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
DEFAULT_PORT = 29500
LISTENING = "0A"  # state of a socket in /proc/net/tcp
# Interfaces that seldom lead to another machine nearby.
VIRTUAL = re.compile(r"docker|veth|br-|virbr|cni|flannel|cali|tailscale|wg|tun|tap|lxc|podman|zt")
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
TRUE = ("1", "on", "yes", "true")  # as huggingface_hub reads its variables
UP = 0x1  # IFF_UP


def network(patient: Patient) -> Iterator[Finding]:
    """torchrun's variables first, then names, interfaces, firewalls, and the default route."""
    world = _world(patient.host)
    yield from _torchrun(patient, world)
    spans_machines = world > max(1, whole(patient.host.environ.get("LOCAL_WORLD_SIZE", str(world))) or 1)
    yield from _name(patient, world, spans_machines)
    yield from _interfaces(patient, spans_machines)
    yield from _firewall(patient, spans_machines)
    yield from _way_out(patient)


def _world(host: Host) -> int:
    return whole(host.environ.get("WORLD_SIZE", "1")) or 1


def _torchrun(patient: Patient, world: int) -> Iterator[Finding]:
    environ = patient.host.environ
    numbers = {name: environ[name] for name in TORCHRUN[:4] if name in environ}
    wrong = [f"{name}={text[:40]!r}" for name, text in numbers.items() if not _is_count(name, text)]
    if wrong or (rank := whole(environ.get("RANK", "0")) or 0) >= world > 1:
        found = (
            f"{', '.join(wrong)}: give whole numbers, and sizes of 1 or more"
            if wrong
            else f"RANK is {rank}, and WORLD_SIZE {world}"
        )
        is_used = "WORLD_SIZE" in " ".join(wrong) or world > 1
        effect = "puna ends with an error" if is_used else "puna reads it only if WORLD_SIZE is more than 1"
        yield Finding("network.torchrun", "error" if is_used else "note", found, effect, _unset(patient))
    elif world == 1:
        yield Finding("network.torchrun", "ok", "puna runs as one process and needs no NCCL, ports or other machines")
    else:
        yield from _several(patient, world, rank)


def _is_count(name: str, text: str) -> bool:
    number = whole(text)
    return number is not None and number >= (1 if name.endswith("SIZE") else 0)


def _several(patient: Patient, world: int, rank: int) -> Iterator[Finding]:
    environ = patient.host.environ
    found = f"rank {rank} of {world} processes that share a model"
    if "MASTER_ADDR" not in environ or "MASTER_PORT" not in environ:
        missing = " and ".join(name for name in TORCHRUN[4:] if name not in environ)
        effect = "the processes cannot find each other, and loading fails"
        yield Finding("network.torchrun", "error", f"{found}, but no {missing}", effect, _unset(patient))
    elif "TORCHELASTIC_RUN_ID" not in environ:
        effect = f"puna waits for {world - 1} other processes; if another program left these variables, it waits forever"
        yield Finding("network.torchrun", "warning", f"{found}, not started by torchrun", effect, _unset(patient))
        yield from _port(patient, rank)
    else:
        yield Finding("network.torchrun", "ok", f"{found}, started by torchrun")


def _unset(patient: Patient) -> Remedy:
    names = [name for name in TORCHRUN if name in patient.host.environ]
    return patient.remedy("unset-torchrun", variables=" ".join(names), powershell=", Env:".join(names))


def _port(patient: Patient, rank: int) -> Iterator[Finding]:
    """Only rank 0 listens, and only if torchrun does not listen for it."""
    text = patient.host.environ.get("MASTER_PORT", "")
    port = whole(text)
    if port is None or not 0 < port < 65536:
        found = f"MASTER_PORT is {text[:40]!r}; give a number from 1 to 65535"
        yield Finding("network.port", "error", found, "the processes cannot meet", patient.remedy("set-master"))
    elif rank == 0 and port in listening_ports(patient.host):
        remedy = patient.remedy("another-port", port=port, other=port + 1 if port < 65535 else DEFAULT_PORT)
        effect = "rank 0 cannot listen there: another program or an earlier run uses it"
        yield Finding("network.port", "error", f"port {port} (MASTER_PORT) is in use", effect, remedy)


def listening_ports(host: Host) -> set[int]:
    """TCP ports on which a program of this machine listens."""
    lines = f"{host.read('/proc/net/tcp') or ''}\n{host.read('/proc/net/tcp6') or ''}".splitlines()
    sockets = (line.split() for line in lines)
    ports = (words[1].rpartition(":")[2] for words in sockets if len(words) > 3 and words[3] == LISTENING)
    return {int(port, 16) for port in ports if re.fullmatch(r"[0-9A-Fa-f]{4}", port)}


def _name(patient: Patient, world: int, spans_machines: bool) -> Iterator[Finding]:
    answer = ask(patient.host, "puna.machine.facts", "name", limit_s=2.0)
    name, addresses = answer.text("name")[:80], answer.facts.get("addresses")
    several: State = "warning" if world > 1 else "note"
    if answer.timed_out:
        found = "the name server did not resolve this machine's name within 2 s"
        effect = "several processes wait for the name server at each start; one process does not need it"
        yield Finding("network.name", several, found, effect)
    elif not name:
        yield Finding("network.name", "note", f"this machine's name could not be looked up: {answer.problem or 'no answer'}")
    elif not isinstance(addresses, list) or not addresses:
        effect = "gloo, which connects several processes, may fail; one process does not need it"
        remedy = patient.remedy("name-the-host", host_name=quoted(name, patient.distribution))
        yield Finding("network.name", several, f"this machine's name {name} has no address", effect, remedy)
    elif spans_machines and all(map(_is_loopback, addresses)):
        found = f"this machine's name {name} has only the loopback address {addresses[0]}"
        effect = "other machines get an address that they cannot reach, and wait forever"
        yield Finding("network.name", "warning", found, effect, patient.remedy("real-address"))


def _is_loopback(address: object) -> bool:
    try:
        return ip_address(str(address).partition("%")[0]).is_loopback
    except ValueError:
        return False


def interfaces(host: Host) -> list[str]:
    """Interfaces that are up, without the loopback."""
    root = "/sys/class/net"
    names = [name for name in host.listing(root)[:256] if name != "lo"]
    return [name for name in names if _flags(host.read(f"{root}/{name}/flags")) & UP]


def _flags(text: str | None) -> int:
    text = (text or "").strip()
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else 0


def _interfaces(patient: Patient, spans_machines: bool) -> Iterator[Finding]:
    host = patient.host
    there = host.listing("/sys/class/net")
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        if there and (value := host.environ.get(name, "")) and not _names_one(value, there):
            remedy = patient.remedy("choose-interface", interface=_best(host))
            found = f"{name} is {value[:60]!r}, and no interface here has that name ({', '.join(there)[:120]})"
            state: State = "warning" if _world(host) > 1 else "note"
            yield Finding("network.interfaces", state, found, "several processes cannot reach each other", remedy)
    names = interfaces(host)
    if (
        spans_machines
        and len(names) > 1
        and "NCCL_SOCKET_IFNAME" not in host.environ
        and "GLOO_SOCKET_IFNAME" not in host.environ
    ):
        remedy = patient.remedy("choose-interface", interface=_best(host))
        effect = "NCCL or gloo may choose one that the other machines cannot reach, and wait forever"
        yield Finding("network.interfaces", "note", f"{len(names)} interfaces are up: {', '.join(names)[:120]}", effect, remedy)


def _names_one(value: str, there: list[str]) -> bool:
    """Whether a value in NCCL's syntax matches an interface: prefixes, `=` for whole names, `^` for all others.

    >>> [_names_one(v, ["lo", "eth0"]) for v in ("eth", "=eth0", "=eth", "^docker", "^eth,lo", "ib0,eth0")]
    [True, True, False, True, False, True]
    """
    is_excluding, names = value.startswith("^"), value.lstrip("^")
    is_exact, names = names.startswith("="), names.lstrip("=")
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    fitting = [name for name in there if (name in wanted if is_exact else name.startswith(tuple(wanted)))]
    return len(fitting) < len(there) if is_excluding else bool(fitting)


def _best(host: Host) -> str:
    """The interface that most likely leads to the other machines."""
    names = interfaces(host)
    real = [name for name in names if not VIRTUAL.match(name)]
    return quoted((real or names or ["eth0"])[0], "ubuntu")


def _firewall(patient: Patient, spans_machines: bool) -> Iterator[Finding]:
    host = patient.host
    firewall = ""
    if re.search(r"^ENABLED=yes\s*$", host.read("/etc/ufw/ufw.conf") or "", re.MULTILINE):
        firewall = "ufw"
    elif (output := host.run("firewall-cmd", "--state")) is not None and output.text.strip() == "running":
        firewall = "firewalld"
    if firewall:
        state: State = "warning" if spans_machines else "ok"
        effect = (
            "processes on other machines cannot reach this machine"
            if spans_machines
            else "processes on one machine do not need it"
        )
        remedy = patient.remedy(f"open-{firewall}", interface=_best(host)) if spans_machines else None
        yield Finding("network.firewall", state, f"a firewall is on ({firewall})", effect, remedy)


def _way_out(patient: Patient) -> Iterator[Finding]:
    host = patient.host
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if host.environ.get(name, "").lower() in TRUE:
            effect = "puna does not fetch models from the Hub; models in the cache run"
            yield Finding("network.offline", "note", f"{name} is set", effect, patient.remedy("go-online", variable=name))
    proxy = next((host.environ[name] for name in PROXIES if host.environ.get(name)), "")
    if proxy:
        yield _proxy(patient, proxy)
    elif host.system == "Linux" and not _has_route(host):
        effect = "puna cannot fetch models; models in the cache and files run"
        yield Finding("network.route", "note", "this machine has no default route to the internet", effect)


def _proxy(patient: Patient, proxy: str) -> Finding:
    shown, is_socks = _without_password(proxy), proxy.lower().startswith("socks")
    if is_socks and patient.once(this_python).facts.get("has_socks") is False:
        effect = "fetching from the Hub fails: the HTTP client needs the package socksio"
        remedy = patient.remedy("install-socks", python=quoted(sys.executable, patient.distribution))
        return Finding("network.proxy", "warning", f"the proxy {shown} is a SOCKS proxy", effect, remedy)
    return Finding("network.proxy", "note", f"a proxy is set: {shown}", "puna fetches models through it")


def _without_password(proxy: str) -> str:
    """
    >>> _without_password("http://me:secret@proxy:3128"), _without_password("proxy:3128"), _without_password("http://[")
    ('http://proxy:3128', 'proxy:3128', '(not an address)')
    """
    try:
        parts = urlsplit(proxy if "://" in proxy else f"//{proxy}")
    except ValueError:
        return "(not an address)"
    host = parts.netloc.rpartition("@")[2][:100]
    return f"{parts.scheme}://{host}" if parts.scheme else host


def _has_route(host: Host) -> bool:
    """Whether a default route exists, or the system does not list routes."""
    four, six = host.read("/proc/net/route"), host.read("/proc/net/ipv6_route")
    if four is None and six is None:
        return True
    rows = [line.split() for line in (four or "").splitlines()[1:]]
    if any(len(row) > 7 and row[1] == row[7] == "00000000" for row in rows):
        return True
    rows = [line.split() for line in (six or "").splitlines()]
    return any(len(row) > 9 and row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo" for row in rows)
