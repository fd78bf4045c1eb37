"""Does PyTorch start? `python -m puna.backends.torch.start` prints its version, or why not, as one line of JSON.

`puna doctor` runs it in its own process: a PyTorch that is installed in part may raise anything, or end the process.
"""

from __future__ import annotations

import json
import sys

from puna.errors import first_line


def look() -> dict[str, str]:
    """`torch`: its version; `problem`: why it cannot be imported."""
    try:
        import torch
        import torch.distributed

        return {"torch": str(torch.__version__)}
    except BaseException as error:  # noqa: BLE001 - a damaged package may raise anything, SystemExit too
        return {"problem": first_line(error, with_kind=True)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()) + "\n")
