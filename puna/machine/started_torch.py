"""Does the installed PyTorch start? A child imports it: one that is installed in part says so only then."""

from __future__ import annotations

from puna.machine.child import ask
from puna.machine.host import COMMAND_LIMIT_S, Host

MODULE = "puna.backends.torch.start"
LIMIT_S = 60.0  # 3 to 15 s from a cold disk


def torch_problem(host: Host, limit_s: float = LIMIT_S) -> str | None:
    """Why PyTorch cannot be imported; "" if it can, None if the child does not say."""
    answer = ask(host, MODULE, limit_s=limit_s)
    if answer.text("torch"):
        return ""
    return answer.text("problem") or (answer.problem if answer.died_by else None)


def early_torch_problem(host: Host) -> str | None:
    """The same within the time of a usual command: a library that is missing shows before the slow part of the import."""
    return torch_problem(host, COMMAND_LIMIT_S)
