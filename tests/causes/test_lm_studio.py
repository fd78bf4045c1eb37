"""LM Studio: what its exit codes say."""

from __future__ import annotations

import pytest

from puna.causes.lm_studio import EXITS, how_it_ended


@pytest.mark.parametrize("status", [status for status in EXITS if status > 1 << 31])
def test_a_code_of_windows_is_known_in_each_form_in_which_it_is_printed(status: int) -> None:
    of_64_bits = (1 << 64) - (1 << 32) + status
    rounded = f"{float(of_64_bits):.17g}"
    for printed in (str(status), str(status - (1 << 32)), str(of_64_bits), str(int(float(rounded)))):
        assert EXITS[status] in how_it_ended(printed), printed


@pytest.mark.parametrize("code", ["", "0", "1", "-1", "99999999999999999999", "18446744073709551615"])
def test_other_codes_say_nothing(code: str) -> None:
    assert how_it_ended(code) == ""
