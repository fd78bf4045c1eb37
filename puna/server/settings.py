"""The settings of a server, from flags or variables. Frozen."""

from __future__ import annotations

from dataclasses import dataclass


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
        max_body: bytes of a request's body [8 MiB]
        max_head: bytes of a request's head [16 KiB]
        head_s, body_s: seconds until a head, and a body, must be complete [10, 60]
        stream_s: seconds in which a client must take what a stream has for it [60]
        progress_s: a stream says at least this often that a prompt is still being computed [2]
        drain_s: seconds that running requests have when the server ends [30]
        keep_alive_s: seconds that an unused model stays loaded, where several are served; None: until its memory is needed [300]
        log_prompts: write prompts and answers to the log [False]
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_queue: int = 64
    max_body: int = 8 << 20
    max_head: int = 16 << 10
    head_s: float = 10.0
    body_s: float = 60.0
    stream_s: float = 60.0
    progress_s: float = 2.0
    drain_s: float = 30.0
    keep_alive_s: float | None = 300.0
    log_prompts: bool = False
