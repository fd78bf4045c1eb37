"""Runs ES modules in Node, without a browser: those that touch no document."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")


def needs_node() -> pytest.MarkDecorator:
    return pytest.mark.skipif(NODE is None, reason="there is no node to run scripts with")


def evaluated(module: Path, names: str, expression: str, given: Any = None, timeout_s: float = 60.0) -> Any:
    """The value of a JavaScript expression, by way of JSON.

    It sees the `names` of a `module`, and `given`. It may await.
    """
    code = f"""
        import {{ {names} }} from {json.dumps(module.as_uri())};
        const pieces = [];
        for await (const piece of process.stdin) pieces.push(piece);
        const given = JSON.parse(Buffer.concat(pieces).toString("utf-8"));
        const value = await ({expression});
        process.stdout.write(JSON.stringify(value ?? null));
    """
    command = [NODE or "node", "--no-warnings", "--input-type=module", "--eval", code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, encoding="utf-8", timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
