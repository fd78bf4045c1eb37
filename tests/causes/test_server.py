"""Programs that serve: what their exit codes and their numbers say."""

from __future__ import annotations

import pytest

from puna.causes import find
from puna.causes.server import EXITS, how_it_ended, share_that_starts


@pytest.mark.parametrize("status", [status for status in EXITS if status > 1 << 31])
def test_a_code_of_windows_is_known_in_each_form_in_which_it_is_printed(status: int) -> None:
    of_64_bits = (1 << 64) - (1 << 32) + status
    rounded = f"{float(of_64_bits):.17g}"
    for printed in (str(status), str(status - (1 << 32)), str(of_64_bits), str(int(float(rounded)))):
        assert EXITS[status] in how_it_ended(printed), printed


@pytest.mark.parametrize("code", ["", "0", "1", "-1", "99999999999999999999", "18446744073709551615"])
def test_other_codes_say_nothing(code: str) -> None:
    assert how_it_ended(code) == ""


@pytest.mark.parametrize(
    ("free", "capacity"), [("31.44", "47.38 GiB"), ("23.5", "23.99 GiB"), ("2.0", "24 GiB"), ("10,5", "12,0 GiB")]
)
def test_the_share_that_is_named_would_start(free: str, capacity: str) -> None:
    share = float(share_that_starts(free, capacity))
    assert share * float(capacity.split()[0].replace(",", ".")) < float(free.replace(",", "."))


def test_the_share_is_told_from_the_numbers_of_the_text() -> None:
    text = (
        "ValueError: Free memory on device (31.44/47.38 GiB) on startup is less than desired GPU memory utilization (0.95, "
        "45.01 GiB)."
    )
    assert any(step.endswith("--gpu-memory-utilization 0.65") for step in find(text)[0].explain().cure)
