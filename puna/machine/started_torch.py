"""Does the installed PyTorch start? A child imports it: one that is installed in part says so only then."""

from __future__ import annotations

from puna.machine.child import Answer, ask
from puna.machine.host import Host

MODULE = "puna.backends.torch.start"
LIMIT_S = 60.0  # 3 to 15 s from a cold disk


def torch_problem(host: Host) -> str | None:
    """Why PyTorch cannot be imported; "" if it can, None if that is not known. A child that hangs or ends without a word is a
    reason: the import alone can do that."""
    return _problem(ask(host, MODULE, limit_s=LIMIT_S))


def early_torch_problem(host: Host) -> str | None:
    """The same within the time of a usual command: a library that is missing shows before the slow part of the import. That it
    takes longer says nothing."""
    answer = ask(host, MODULE)
    return None if answer.timed_out else _problem(answer)


def _problem(answer: Answer) -> str | None:
    if answer.text("torch"):
        return ""
    return answer.text("problem") or (answer.problem if answer.has_run else "") or None
