"""When a step runs on several threads, and when not."""

from __future__ import annotations

from puna.backends.cpu.thread_policy import MAX_ALONE, ThreadPolicy


def steps(policy: ThreadPolicy, seconds_shared: float, seconds_alone: float, count: int, rows: int = 1) -> list[bool]:
    """Whether each of `count` steps was shared, on a machine of these speeds."""
    found = []
    for _ in range(count):
        shared = policy.shares(rows)
        policy.note(rows, shared, seconds_shared if shared else seconds_alone)
        found.append(shared)
    return found


def test_a_quiet_machine_shares_every_step_but_the_one_that_measures() -> None:
    assert steps(ThreadPolicy(2), 0.005, 0.008, 500) == [True, False, *[True] * 498]


def test_a_context_that_grows_is_no_hindrance() -> None:
    policy = ThreadPolicy(2)
    shared = [steps(policy, 0.005 * (1 + i / 500), 0.008 * (1 + i / 500), 1)[0] for i in range(4000)]
    assert shared.count(False) < 20


def test_one_hiccup_changes_nothing() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.005, 0.008, 20)
    assert steps(policy, 0.5, 0.008, 1) == [True]
    assert all(steps(policy, 0.005, 0.008, 100))


def test_a_busy_machine_is_left_to_one_thread_and_tried_ever_more_rarely() -> None:
    shared = steps(ThreadPolicy(2), 0.2, 0.008, 3000)
    assert shared[:9] == [True, False, True, True, False, False, True, False, False]
    assert sum(shared) <= 3000 / MAX_ALONE + 10


def test_the_team_is_used_again_once_the_machine_is_quiet() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.2, 0.008, 30)
    assert all(steps(policy, 0.005, 0.008, 100)[40:])


def test_each_number_of_rows_has_its_own_measure() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.005, 0.008, 10)
    assert all(steps(policy, 0.012, 0.03, 50, rows=4)[2:])


def test_one_thread_and_long_steps_have_no_choice() -> None:
    assert not ThreadPolicy(1).shares(1)
    policy = ThreadPolicy(4)
    for seconds in (1.0, 100.0, 100.0, 100.0):
        policy.note(256, True, seconds)
    assert policy.shares(256) and policy.shares(1)
