"""The number of threads of a step, on simulated machines of 1 to 64 threads: near the best fixed number, and never far off."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from puna.backends.cpu.threads import EXPLORED, ThreadPolicy

BARRIER_S = 200 * 0.3e-6  # of a step, for each doubling of the threads
ALONE_S = 0.032
PERIOD_S = 0.1  # of a quota
SEED = 20261201

StepTime = Callable[[int, float], float]  # threads, time -> seconds of a step


def compute(threads: int, _: float) -> float:
    """All threads have a core of their own, which is all they need."""
    return ALONE_S / threads + BARRIER_S * math.log2(threads)


def bandwidth(enough: int) -> StepTime:
    """So many threads take all of the memory's bandwidth."""
    return lambda threads, _: ALONE_S / min(threads, enough) + BARRIER_S * math.log2(threads)


def slower_beyond(cores: int, speed: float) -> StepTime:
    """Further threads are slower: on a core's second hardware thread, or on a slow core. All wait for them."""
    return lambda threads, _: compute(threads, 0) if threads <= cores else compute(threads, 0) / speed


def beside(others: Callable[[float], int], cores: int, loss: float = 0.5) -> StepTime:
    """Beside so many busy programs: those threads of ours that have no core of their own run in turns, and all wait for them."""

    def seconds(threads: int, now: float) -> float:
        over = max(0, threads + others(now) - cores)
        return compute(threads, 0) * (1 + loss * bool(over) + over / min(threads, cores))

    return seconds


class SimulatedMachine(NamedTuple):
    """What a step takes, the numbers of threads to choose from, the first, and how near to the best fixed number its share of
    steps must be after ten seconds, and after a minute."""

    step: StepTime
    counts: tuple[int, ...]
    start: int
    soon: float = 0.93
    late: float = 0.95
    quota: float = math.inf  # cores


TO_64 = (1, 2, 3, 4, 6, 9, 14, 21, 32, 48, 64)
TO_16 = (1, 2, 3, 4, 6, 9, 14, 16)
MACHINES: dict[str, SimulatedMachine] = {
    "2 cores": SimulatedMachine(compute, (1, 2), 2),
    "64 cores": SimulatedMachine(compute, TO_64, 64),
    "64 cores, begun on 4": SimulatedMachine(compute, TO_64, 4, soon=0.8),
    "16 cores, 6 take the bandwidth": SimulatedMachine(bandwidth(6), TO_16, 16),
    "64 cores, 12 take the bandwidth": SimulatedMachine(bandwidth(12), TO_64, 64, soon=0.9, late=0.94),
    "8 cores, their second threads add 20 %": SimulatedMachine(slower_beyond(8, 0.6), (1, 2, 3, 4, 6, 8, 16), 8),
    "8 cores, their second threads cost 10 %": SimulatedMachine(slower_beyond(8, 0.45), (1, 2, 3, 4, 6, 8, 16), 8),
    "6 fast cores, 8 slow": SimulatedMachine(slower_beyond(6, 0.4), (1, 2, 3, 4, 6, 14), 6),
    "8 fast cores, 16 slow": SimulatedMachine(slower_beyond(8, 0.4), (1, 2, 3, 4, 6, 8, 24), 24),
    "2 cores, 1 busy program": SimulatedMachine(beside(lambda _: 1, 2), (1, 2), 2),
    "2 cores, 2 busy programs": SimulatedMachine(beside(lambda _: 2, 2), (1, 2), 2),
    "2 cores, 2 busy programs, collapse": SimulatedMachine(beside(lambda _: 2, 2, loss=40.0), (1, 2), 2, soon=0.75),
    "16 cores, 6 busy programs": SimulatedMachine(beside(lambda _: 6, 16), TO_16, 16, soon=0.88),
    "64 cores, 32 busy programs": SimulatedMachine(beside(lambda _: 32, 64), TO_64, 64, soon=0.8),
    "64 cores, 63 busy programs, collapse": SimulatedMachine(beside(lambda _: 63, 64, 60.0), TO_64, 64, soon=0.5, late=0.6),
    "16 cores, 8 busy programs come and go": SimulatedMachine(beside(lambda now: 8 * (int(now / 10) % 2), 16), TO_16, 16),
    "a quota of 1.5 cores, begun on 1": SimulatedMachine(compute, (1, 2), 1, quota=1.5),
    "a quota of 2 cores on 8": SimulatedMachine(compute, (1, 2, 3, 4, 6, 8), 8, soon=0.85, late=0.9, quota=2.0),
    "a quota of 2.5 cores on 16": SimulatedMachine(compute, (1, 2, 3), 2, quota=2.5),
}


@dataclass
class Quota:
    """The CPU time of each period: who has used it up waits for the next one."""

    cores: float
    period: int = -1
    used_s: float = 0.0

    def seconds(self, threads: int, work_s: float, now: float) -> float:
        """What a step really takes that needs `work_s` on each of its threads."""
        took = 0.0
        while work_s > 1e-9:
            at = now + took
            if int(at / PERIOD_S) != self.period:
                self.period, self.used_s = int(at / PERIOD_S), 0.0
            end = (self.period + 1) * PERIOD_S - at
            part = min(work_s, (self.cores * PERIOD_S - self.used_s) / threads, end)
            work_s, took, self.used_s = work_s - part, took + part, self.used_s + part * threads
            if work_s > 1e-9:
                took += end - part + 1e-9
        return took


@dataclass
class Run:
    """Steps on a simulated machine; every step varies by some percent, and one in 500 takes 30 ms longer."""

    machine: SimulatedMachine
    seconds: float
    seed: int
    policy: ThreadPolicy | None = None
    threads: list[int] = field(default_factory=list)

    def steps_per_s(self, fixed: int = 0) -> float:
        """With the policy, or with a fixed number of threads."""
        rng, quota, now = random.Random(self.seed), Quota(self.machine.quota), 0.0
        while now < self.seconds:
            threads = self.policy.threads_for(1) if self.policy else fixed
            work = self.machine.step(threads, now) * math.exp(rng.gauss(0, 0.05)) + 0.03 * (rng.random() < 0.002)
            took = work if self.machine.quota == math.inf else quota.seconds(threads, work, now)
            if self.policy:
                self.policy.note(1, took)
            self.threads.append(threads)
            now += took
        return len(self.threads) / now


def share_of_best(machine: SimulatedMachine, seconds: float, seed: int) -> float:
    """Steps in a second with the policy, of those with the best fixed number of threads."""
    found = Run(machine, seconds, seed, ThreadPolicy(machine.counts, machine.start))
    best = max(Run(machine, seconds, seed + 1).steps_per_s(count) for count in machine.counts)
    share = found.steps_per_s() / best
    print(f"seed {seed}, {seconds:g} s: {share:.3f} of the best; at the end {found.policy.best() if found.policy else ''}")
    return share


@pytest.mark.parametrize("name", MACHINES)
def test_the_policy_comes_near_the_best_number(name: str) -> None:
    machine = MACHINES[name]
    assert min(share_of_best(machine, 10, SEED + i) for i in range(3)) >= machine.soon
    assert share_of_best(machine, 60, SEED) >= machine.late


@pytest.mark.full
@pytest.mark.parametrize("seed", range(40))
def test_random_machines(seed: int) -> None:
    """Random cores, bandwidth, others and quota; the times of steps are any mixture of these."""
    rng = random.Random(seed)
    cores = rng.choice([2, 4, 8, 16, 32, 64])
    others, quota = rng.randrange(cores), rng.choice([math.inf, math.inf, rng.uniform(1, cores)])
    most = cores if quota == math.inf else math.ceil(quota)
    counts = (*(n for n in TO_64 if n < most), most)
    steps = [bandwidth(rng.randint(1, cores)), beside(lambda _: others, cores), compute]
    weights = [rng.random() for _ in steps]
    machine = SimulatedMachine(
        lambda threads, now: sum(w * step(threads, now) for w, step in zip(weights, steps, strict=True)) / sum(weights),
        counts,
        rng.choice(counts),
        quota=quota,
    )
    assert share_of_best(machine, 60, seed) >= 0.85


def test_a_quiet_machine_loses_no_more_than_is_allowed() -> None:
    machine = SimulatedMachine(lambda threads, _: 0.005 if threads == 2 else 0.008, (1, 2), 2)
    run = Run(machine, 60, SEED, ThreadPolicy((1, 2), 2))
    run.steps_per_s()
    assert run.threads.count(1) / len(run.threads) < 2 * EXPLORED


def test_trials_take_blocks_so_that_threads_sleep_and_wake_rarely() -> None:
    run = Run(SimulatedMachine(lambda threads, _: 0.008, (1, 2), 2), 60, SEED, ThreadPolicy((1, 2), 2))
    run.steps_per_s()
    changes = sum(a != b for a, b in zip(run.threads, run.threads[1:], strict=False))
    assert changes < len(run.threads) / 15


def paces(policy: ThreadPolicy, seconds: dict[int, float], count: int, rows: int = 1) -> list[int]:
    """The threads of `count` steps. `seconds`: threads -> of a step."""
    found = []
    for _ in range(count):
        found.append(policy.threads_for(rows))
        policy.note(rows, seconds[found[-1]])
    return found


def test_one_hiccup_changes_nothing() -> None:
    policy = ThreadPolicy((1, 2), 2)
    paces(policy, {1: 0.008, 2: 0.005}, 200)
    policy.note(1, 0.5)
    assert paces(policy, {1: 0.008, 2: 0.005}, 200).count(1) < 10 and policy.best() == {1: 2}


def test_a_machine_that_becomes_busy_is_noticed_after_two_steps() -> None:
    policy = ThreadPolicy((1, 2), 2)
    paces(policy, {1: 0.008, 2: 0.005}, 200)
    while policy.threads_for(1) == 1:
        policy.note(1, 0.008)
    assert paces(policy, {1: 0.008, 2: 0.2}, 20).count(2) <= 4 and policy.best() == {1: 1}


def test_the_team_is_used_again_once_the_machine_is_quiet() -> None:
    policy = ThreadPolicy((1, 2), 2)
    paces(policy, {1: 0.008, 2: 0.2}, 200)
    assert policy.best() == {1: 1}
    paces(policy, {1: 0.008, 2: 0.005}, 1500)
    assert policy.best() == {1: 2}


def test_a_context_that_grows_is_no_hindrance() -> None:
    policy = ThreadPolicy((1, 2), 2)
    found = [paces(policy, {1: 0.008 * (1 + i / 500), 2: 0.005 * (1 + i / 500)}, 1)[0] for i in range(4000)]
    assert found.count(1) < 2 * 4000 * EXPLORED


def test_prompts_and_answers_have_searches_of_their_own() -> None:
    """An answer of one token at a time fills the memory's bandwidth with few threads, a prompt needs all."""
    policy = ThreadPolicy((1, 2, 3, 4, 6, 8), 8)
    for _ in range(120):
        paces(policy, {n: 0.1 / n for n in (1, 2, 3, 4, 6, 8)}, 1, rows=512)
        paces(policy, {n: max(0.005, 0.012 / n) + 0.0002 * n for n in (1, 2, 3, 4, 6, 8)}, 30)
    assert policy.best()[512] == 8 and policy.best()[1] in (2, 3)


def test_a_second_prompt_is_no_trial() -> None:
    """Whoever asks again a moment later would wait half as long again. Trials of long steps wait until they are earned."""
    policy = ThreadPolicy((1, 2), start=2)
    for _ in range(20):
        assert policy.threads_for(256) == 2
        policy.note(256, 0.4)


def test_a_new_kind_of_step_begins_where_the_nearest_one_is() -> None:
    policy = ThreadPolicy((1, 2), 2)
    paces(policy, {1: 0.008, 2: 0.2}, 200)
    assert policy.threads_for(4) == 1 and policy.threads_for(300) == 2


def test_one_thread_is_no_choice() -> None:
    policy = ThreadPolicy((1,), 1)
    assert set(paces(policy, {1: 0.3}, 100)) == {1}
