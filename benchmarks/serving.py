"""Load on `puna serve`: concurrent streams of one model, beside the engine alone at the same batch.

    python -m benchmarks.serving [MODEL] --clients 64 --seconds 60
    python -m benchmarks.serving --port 8001    # a server that runs, of any make: the same requests, nothing else

Prints requests/s, tokens/s, time to first token, inter-token latency (median, p99 and their ratio), errors, and the CPU time of
the event loop's thread for each streamed token: all that serving costs beside the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

import psutil

WORDS = ("the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "his")
ALONE_S = 60.0


@dataclass
class Measured:
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_requests: int = 0
    errors: list[str] = field(default_factory=list)


def request_of(rng: random.Random) -> dict[str, object]:
    """A prompt and an answer of 32 to 256 tokens."""
    prompt = " ".join(rng.choice(WORDS) for _ in range(rng.randint(32, 256)))
    return {"prompt": prompt, "max_tokens": rng.randint(32, 256), "ignore_eos": True, "stream": True}


async def client(port: int, seed: int, until: float, found: Measured) -> None:
    rng = random.Random(seed)
    while time.perf_counter() < until:
        try:
            await one_stream(port, request_of(rng), found)
        except Exception as error:  # noqa: BLE001 - what a client meets is the result
            found.errors.append(repr(error)[:200])


async def one_stream(port: int, body: dict[str, object], found: Measured) -> None:
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + raw)
    began = last = time.perf_counter()
    num_tokens = 0
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            now = time.perf_counter()
            if num_tokens == 0:
                found.firsts.append(now - began)
            else:
                found.gaps.append(now - last)
            num_tokens, last = num_tokens + 1, now
        elif line.startswith(b"HTTP/1.1") and b" 200" not in line:
            found.errors.append(line.decode().strip())
    writer.close()
    found.num_tokens += num_tokens - 1  # the last chunk has no token
    found.num_requests += 1


async def load(port: int, clients: int, seconds: float) -> Measured:
    found = Measured()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, seed, until, found) for seed in range(clients)))
    return found


def loop_seconds(pid: int) -> float:
    """CPU time of the main thread, which runs the event loop; the engine has a thread of its own."""
    main = next(one for one in psutil.Process(pid).threads() if one.id == pid)
    return float(main.user_time + main.system_time)


def engine_alone(model: str | None, clients: int, seconds: float) -> float:
    """Tokens/s of the engine's own steps with the same requests, `clients` of them at once: no threads, no text is read."""
    from puna import LLM
    from puna.progress import SILENT
    from puna.request import SamplingParams

    with LLM(model, report=SILENT) as llm:
        rngs = {seed: random.Random(seed) for seed in range(clients)}
        seeds: dict[int, int] = {}  # by the request that runs

        def begin(seed: int) -> None:
            body = request_of(rngs[seed])
            params = SamplingParams(max_tokens=int(str(body["max_tokens"])), ignore_eos=True)
            seeds[llm.engine.add(llm.encode(str(body["prompt"])), params).id] = seed

        for seed in rngs:
            begin(seed)
        began, total = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for output in llm.engine.step():
                total += len(output.token_ids)
                if output.finish_reason is not None:
                    begin(seeds.pop(output.request_id))
        return total / (time.perf_counter() - began)


def say(found: Measured, took: float) -> None:
    """What the clients saw."""
    gaps, firsts = sorted(found.gaps), sorted(found.firsts)
    p50, p99 = statistics.median(gaps), gaps[int(0.99 * len(gaps))]
    print(f"{found.num_requests / took:.2f} requests/s, {found.num_tokens / took:.1f} tokens/s, {len(found.errors)} errors")
    print(f"{found.num_requests} requests, {found.num_tokens} tokens in {took:.0f} s", *found.errors[:3], sep="\n")
    print(f"first token: median {statistics.median(firsts):.3f} s, p99 {firsts[int(0.99 * len(firsts))]:.3f} s")
    print(f"between tokens: median {1e3 * p50:.1f} ms, p99 {1e3 * p99:.1f} ms, ratio {p99 / p50:.2f}", flush=True)


def measure(port: int, clients: int, seconds: float) -> tuple[Measured, float]:
    """What happened, and how long it took."""
    asyncio.run(load(port, 4, 2))  # the first requests of a process
    began = time.perf_counter()
    found = asyncio.run(load(port, clients, seconds))
    return found, time.perf_counter() - began


def beside_the_engine(model: str | None, clients: int, seconds: float) -> None:
    """puna serve, and the engine alone for up to a minute before it and after it: a machine's speed drifts."""
    alone_s = min(seconds, ALONE_S)
    own = [engine_alone(model, clients, alone_s)]
    command = [sys.executable, "-m", "puna", "serve", *([model] if model else []), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = json.loads(server.stdout.readline())["port"]
        before = loop_seconds(server.pid)
        found, took = measure(port, clients, seconds)
        cpu = (loop_seconds(server.pid) - before) / found.num_tokens
        server.terminate()
    say(found, took)
    own.append(engine_alone(model, clients, alone_s))
    share = found.num_tokens / took / statistics.mean(own)
    print(f"engine alone {own[0]:.1f} before, {own[1]:.1f} after: the server reaches {share:.3f} of their mean")
    print(f"CPU of the event loop: {1e6 * cpu:.0f} us a token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    if given.port is None:
        beside_the_engine(given.model, given.clients, given.seconds)
    else:
        say(*measure(given.port, given.clients, given.seconds))


if __name__ == "__main__":
    main()
