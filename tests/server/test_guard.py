"""Who may speak to the server: hosts, origins and keys, on every method, before routing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.server.serving import SETTINGS, WAIT_S, RunningServer, serving

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
HOSTILE_HEADS = {
    "another host": "Host: evil.com\r\n",
    "a subdomain of localhost's namesake": "Host: localhost.evil.com\r\n",
    "an address as a subdomain": "Host: 127.0.0.1.evil.com\r\n",
    "no host": "",
    "two hosts": "Host: localhost\r\nHost: evil.com\r\n",
    "two equal hosts": "Host: localhost\r\nHost: localhost\r\n",
    "user and host": "Host: localhost@evil.com\r\n",
    "another origin": "Host: localhost\r\nOrigin: http://evil.com\r\n",
    "an opaque origin": "Host: localhost\r\nOrigin: null\r\n",
    "an origin of another port": "Host: localhost:{port}\r\nOrigin: http://localhost:1\r\n",
    "an origin of another scheme": "Host: localhost:{port}\r\nOrigin: https://localhost:{port}\r\n",
    "two origins": "Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nOrigin: http://evil.com\r\n",
    "a page of another site": "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
    "a page of the same site, another port": "Host: localhost\r\nSec-Fetch-Site: same-site\r\n",
}
HONEST_HEADS = {
    "localhost": "Host: localhost\r\n",
    "with a port": "Host: localhost:{port}\r\n",
    "an address": "Host: 127.0.0.1:{port}\r\n",
    "IPv6": "Host: [::1]:{port}\r\n",
    "a trailing dot": "Host: localhost.:{port}\r\n",
    "capitals": "Host: LOCALHOST\r\n",
    "its own page": "Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n",
    "its own page, as browsers say it": "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n",
    "the address line": "Host: localhost\r\nSec-Fetch-Site: none\r\n",
}


def status_of(server: RunningServer, request: str) -> int:
    with server.connect() as connection:
        connection.settimeout(WAIT_S)
        connection.sendall(request.replace("{port}", str(server.port)).encode())
        return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", HOSTILE_HEADS.values(), ids=HOSTILE_HEADS.keys())
def test_hostile_heads_are_refused_on_every_method(server: RunningServer, head: str, method: str) -> None:
    for path in ("/v1/models", "/health", "/nowhere"):
        assert status_of(server, f"{method} {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n") in (400, 403)


@pytest.mark.parametrize("head", HONEST_HEADS.values(), ids=HONEST_HEADS.keys())
def test_honest_heads_are_served(server: RunningServer, head: str) -> None:
    assert status_of(server, f"GET /v1/models HTTP/1.1\r\n{head}Connection: close\r\n\r\n") == 200


def test_another_absolute_target_does_not_replace_the_host(server: RunningServer) -> None:
    assert status_of(server, "GET http://evil.com/v1/models HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n") in (
        400,
        403,
    )


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    settings = replace(SETTINGS, api_keys=("secret", "schlüssel"), allowed_origins=("app://obsidian.md", "https://ok.org"))
    with serving(settings=settings) as running:
        yield running


WRONG_KEYS: tuple[dict[str, str], ...] = (
    {}, {"x-api-key": ""}, {"x-api-key": "wrong"}, {"authorization": "Bearer secre"}, {"api-key": "x" * 9000}
)  # fmt: skip


def paths_of(server: RunningServer) -> list[tuple[str, str]]:
    """(method, path) of every route."""
    from puna.server.wires import WIRES

    return [(route.method, route.path.replace("{name:path}", "tiny")) for wire in WIRES for route in wire.routes]


def test_every_route_needs_the_key_but_health(keyed: RunningServer) -> None:
    assert keyed.get("/health").status == 200
    for method, path in paths_of(keyed):
        for headers in (
            {},
            {"x-api-key": ""},
            {"x-api-key": "wrong"},
            {"authorization": "Bearer secre"},
            {"api-key": "x" * 9000},
        ):
            answer = keyed.request(method, path, headers=headers)
            assert answer.status == 401, (method, path, headers)
            assert b"secret" not in answer.body


def test_each_key_is_taken_in_each_header(keyed: RunningServer) -> None:
    for headers in (
        {"authorization": "Bearer secret"},
        {"authorization": "bearer  secret"},
        {"x-api-key": "secret"},
        {"api-key": "secret"},
        {"x-api-key": "schlüssel".encode().decode("latin-1")},
    ):
        assert keyed.get("/v1/models", headers).status == 200, headers


def test_pages_of_listed_origins_may_read_answers(keyed: RunningServer) -> None:
    for origin in ("app://obsidian.md", "https://ok.org"):
        asked = keyed.request(
            "OPTIONS",
            "/v1/chat/completions",
            headers={"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"},
        )
        assert asked.status == 204 and asked.headers["access-control-allow-origin"] == origin
        assert asked.headers["access-control-allow-headers"] == "x-api-key"
        answer = keyed.get("/v1/models", {"origin": origin, "x-api-key": "secret"})
        assert answer.status == 200 and answer.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.headers
    assert keyed.get("/v1/models", {"origin": "https://ok.org.evil.com", "x-api-key": "secret"}).status == 403


def test_without_listed_origins_no_answer_has_cors_headers(server: RunningServer) -> None:
    assert not [name for name in server.get("/v1/models").headers if name.startswith("access-control")]


def test_keys_share_no_cached_prompts(keyed: RunningServer) -> None:
    """Each key's second request is served from the cache, and no key's first one."""
    body = {"prompt": "the same long beginning of a prompt, which fills more than a page of the cache", "max_tokens": 1}
    for key in ("secret", "schlüssel"):
        header = {"x-api-key": key.encode().decode("latin-1")}
        usages = [keyed.post("/v1/completions", body, header).json["usage"] for _ in range(2)]
        first, second = (usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
        assert first == 0 < second
