"""The settings of a server, from flags or variables. Frozen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puna.checks import require


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to serve. What is longer or slower than these limits is refused before anything is kept of it.

    Fields, with the default:
        host: the address to listen on; beyond loopback `api_keys` are required ['127.0.0.1']
        port: 0 takes any free one [8000]
        api_keys: a request needs one of these, but for /health. (): none is needed [()]
        allowed_hosts: names by which clients may call the server, besides its address and localhost [()]
        allowed_origins: origins of pages that may call it, besides its own: "https://example.org", "app://obsidian.md" [()]
        max_queue: requests that may wait beside those that run [64]
        max_tokens: cap every answer at so many tokens, whatever a request asks for; None: no cap [None]
        max_body: bytes of a request's body [8 MiB]
        max_head: bytes of a request's head [16 KiB]
        head_s, body_s: seconds until a head, and a body, must be complete [10, 60]
        stream_s: seconds in which a client must take what a stream has for it [60]
        progress_s: a stream says at least this often that a prompt is still being computed [2]
        drain_s: seconds that running requests have when the server ends [30]
        keep_alive_s: seconds that an unused model stays loaded; inf: until its memory is needed; None: 300 where several are
            served, inf for one alone [None]
        log_prompts: write prompts and answers to the log [False]
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_queue: int = 64
    max_tokens: int | None = None
    max_body: int = 8 << 20
    max_head: int = 16 << 10
    head_s: float = 10.0
    body_s: float = 60.0
    stream_s: float = 60.0
    progress_s: float = 2.0
    drain_s: float = 30.0
    keep_alive_s: float | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            ok = value is None or low <= value <= high
            require(ok, name, f"is {value}; it must lie in {low}..{high}")
        for name in ("api_keys", "allowed_hosts", "allowed_origins"):
            require(all(getattr(self, name)), name, "holds an empty text", hint="Leave it out, or give a text.")
        require(bool(self.host), "host", "is empty", hint="Leave it out to serve this machine only.")


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65535),
    ("max_queue", 0, 1 << 16),
    ("max_tokens", 1, 1 << 27),
    ("max_body", 1 << 8, 1 << 30),
    ("max_head", 1 << 10, 1 << 20),
    ("head_s", 0.01, 3600),
    ("body_s", 0.01, 3600),
    ("stream_s", 0.01, 3600),
    ("progress_s", 0.01, 3600),
    ("drain_s", 0, 3600),
    ("keep_alive_s", 0, math.inf),
)
