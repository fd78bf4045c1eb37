"""Which bodies are read."""

from __future__ import annotations

from tests.server.serving import RunningServer

BODY = b'{"tokens": [104, 105]}'


def test_a_program_may_leave_the_type_out_and_a_page_may_not(server: RunningServer) -> None:
    assert server.request("POST", "/detokenize", BODY, {"content-type": ""}).status == 415  # a type, though empty
    lines = f"POST /detokenize HTTP/1.1\r\nHost: localhost:{server.port}\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n"
    for more, status in (("", b"200"), (f"Origin: http://localhost:{server.port}\r\n", b"415")):
        with server.connect() as connection:
            connection.sendall(f"{lines}{more}\r\n".encode() + BODY)
            assert connection.recv(1 << 16).split(b" ")[1] == status
