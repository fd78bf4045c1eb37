"""Who steps the engine, and who hears of it.

An Engine is not thread-safe. A Runner shares one among any number of threads:

* Whoever reads a handle steps the engine. One thread steps at a time; the others wait for the end of that step, because each
  step puts its outputs into the handles of all requests. `start` adds a thread that steps for those who cannot, such as an
  event loop.
* `Runner.submit`, `Handle.cancel` and `Handle.end_thinking` never wait. Whoever uses the engine next carries them out first, in
  their order.
* A handle that is cancelled, closed or dropped ends its request before the next step.
* An exception that belongs to one request (its sampler, its text) ends that one; an exception of a step ends the requests in it.
  Their handles raise it after their last outputs, and the others go on. Logits that are not finite are not raised: the output
  says ERROR. Ctrl-C is raised only in the thread that it interrupts; the other handles end with ABORT.
* After `close` every handle has ended, and no thread steps.

Ctrl-C may come between any two lines of Python. So only locks of C are used here: `threading.Condition` and `Event`, which are
Python, can be left locked for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from weakref import WeakValueDictionary

from puna.engine import Engine
from puna.errors import NumericalError, UsageError
from puna.opening import NO_OPENING, Opening
from puna.pooling import Pool
from puna.processors import PROCESSORS, LogitsProcessor
from puna.request import Request, SamplingParams, StepOutput
from puna.sampling import TokenSampler, Watcher

T = TypeVar("T")


class Handle(Iterator[StepOutput]):
    """A submitted prompt: iterate over its outputs, from any thread. Each output goes to one reader.

    `listener` is called with the handle, in the thread that steps, at each output and at the end. It must not wait.
    """

    request: Request | None = None  # None until the engine has taken it
    error: BaseException | None = None  # why the engine refused it, or what broke its last step
    first_token_at = ended_at = 0.0  # on the clock of time.perf_counter; 0: not yet
    own_code = ""  # "sampler" or "logits_processors", if functions of the caller's own choose its tokens

    def __init__(self, runner: Runner, listener: Callable[[Handle], object]) -> None:
        self.submitted_at = time.perf_counter()
        self.outputs: list[StepOutput] = []  # all that came so far
        self._runner = runner
        self._listener = listener
        self._unread: deque[StepOutput] = deque()

    @property
    def samples(self) -> list[Handle]:
        """The handles of its samples: itself, unless there are several."""
        return [self]

    @property
    def keeps_logprobs(self) -> bool:
        """Whether the log-probabilities of its samples belong to the result."""
        return True

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to read. Ask after `take` returned None."""
        return self.ended_at > 0 and not self._unread

    def take(self) -> StepOutput | None:
        """The next output, if there is one now. Never waits."""
        try:
            return self._unread.popleft()
        except IndexError:
            return None

    def __next__(self) -> StepOutput:
        while (output := self.take()) is None:
            if self.is_over:
                raise self.error or StopIteration
            self._runner._until(lambda: self._unread or self.ended_at, self._runner._step)
        return output

    def confirm(self) -> Request:
        """Wait until the engine has taken the request, which is at most a step. Raises its refusal."""
        self._runner._until(lambda: self.request or self.ended_at, self._runner._sweep)
        if self.request is None:
            assert self.error is not None
            raise self.error
        return self.request

    def cancel(self) -> None:
        """End the request before the next step. Never waits; its last output comes as any other."""
        if not self.ended_at:
            self._runner._ask(self._abort)

    def end_thinking(self) -> None:
        """End the thoughts of the request before the next step, so that its answer comes (`Engine.end_thinking`). Never waits."""
        if not self.ended_at:
            self._runner._ask(self._end_thoughts)

    def close(self) -> None:
        """Cancel the request, wait until it has ended, and drop what nobody has read. Idempotent."""
        self.cancel()
        self._runner._until(lambda: self.ended_at, self._runner._sweep)
        self._unread.clear()

    def __del__(self) -> None:
        """Cancel, without waiting, because the garbage collector may call this at any moment."""
        if self.request is not None and not self.ended_at:
            self._runner._ask(partial(self._runner._engine.abort, self.request.id))

    def _abort(self) -> None:
        if self.request is not None:
            self._runner._engine.abort(self.request.id)
            self._runner._deliver(self._runner._engine.outputs())
        if not self.ended_at:  # its last output was lost
            self._end()

    def _end_thoughts(self) -> None:
        if self.request is not None:
            self._runner._engine.end_thinking(self.request.id)

    def _put(self, output: StepOutput, now: float) -> None:
        self.outputs.append(output)
        self._unread.append(output)
        if output.token_ids and not self.first_token_at and not self._is_opening():
            self.first_token_at = now
        if output.finish_reason is not None:
            self.error = self.error or _raised(self.request)
            self.ended_at = now
        self._listener(self)

    def _is_opening(self) -> bool:
        """Whether all tokens so far are those that the answer opens with."""
        return self.request is not None and len(self.request.output_ids) == self.request.num_opened

    def _end(self, error: BaseException | None = None) -> None:
        """End it without a last output."""
        self.error = error or self.error
        self.ended_at = time.perf_counter()
        self._listener(self)


def nobody_listens(handle: Handle) -> None:
    """The listener of a handle that is only read."""


class Call:
    """One call of a caller. The queue may refuse its first request (`EngineConfig.max_queue`); the others belong to it."""

    is_admitted = False  # whether the queue took the first one


class Runner:
    """Steps an engine for many threads, as the beginning of this file says."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._engine_lock = threading.RLock()  # held for a turn; only its owner can release it
        self._user = 0  # the thread that uses the engine
        self._turn = object()  # another one after each turn
        self._bells: deque[threading.Lock] = deque()  # each wakes a thread that waits for the end of a turn
        self._handles: WeakValueDictionary[int, Handle] = WeakValueDictionary()  # request id -> handle, until its end
        self._calls: deque[Callable[[], None]] = deque()  # what threads that do not use the engine ask of it
        self._thread: threading.Thread | None = None
        self._sleep = threading.Lock()  # held while there is nothing new for that thread to do
        self._sleep.acquire()
        self._is_closed = self._is_over = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing is asked of the engine."""
        return not (self._calls or self._engine.has_work)

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sampler: TokenSampler | None = None,
        processors: Sequence[LogitsProcessor] = (),
        opening: Opening = NO_OPENING,
        listener: Callable[[Handle], object] = nobody_listens,
        pool: Pool | None = None,
        leader: Handle | None = None,
        call: Call | None = None,
        watcher: Watcher | None = None,
    ) -> Handle:
        """Queue a prompt, with the arguments of `Engine.add`. Never waits: a refusal is raised by the handle.

        `leader`: another sample of this prompt; this one waits for the pages that it computes. `call`: the one that this request
        belongs to; None: it is a call of its own.
        """
        handle = Handle(self, listener)
        handle.own_code = "sampler" if sampler is not None else PROCESSORS if processors else ""
        add = partial(self._engine.add, prompt_ids, params, sampler, pool, processors, watcher=watcher, opening=opening)
        self._ask(partial(self._admit, handle, add, leader, call or Call()))
        if self._is_closed:  # nobody else may come to refuse it
            self._until(lambda: handle.ended_at, self._sweep)
        return handle

    def alone(self, use: Callable[[], T]) -> T:
        """Do `use` while the engine holds no request, so that it may use all KV pages. What runs is finished first."""
        results: list[T] = []

        def work() -> None:
            self._require_open()
            if self._engine.has_work:
                self._step()
            else:
                results.append(use())

        self._until(lambda: results, work)
        return results[0]

    def start(self) -> Self:
        """Step in a thread of the runner's own, until `close`. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="puna-runner", daemon=True)
            atexit.register(self.close)  # the interpreter must not end under a step
            self._thread.start()
        return self

    def close(self) -> None:
        """End all requests, after the step that runs. Idempotent."""
        self._is_closed = True
        self._wake()
        self._until(lambda: self._is_over, self._step)
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake
            self._sleep.release()

    # ---- whose turn it is ---------------------------------------------------------------------------------------------

    def _until(self, is_so: Callable[[], object], work: Callable[[], None]) -> None:
        """Do `work` on the engine until `is_so`. While another thread uses the engine, wait for the end of its turn."""
        if self._user == threading.get_ident():
            raise UsageError("a sampler used the model that was asking it for a token", hint="Use the model after the step.")
        try:
            while True:
                turn = self._turn  # read before asking, so that no turn that ends afterwards is missed
                if is_so():
                    return
                if self._engine_lock.acquire(blocking=False):
                    self._use(work)
                    self._end_turn()
                else:
                    self._await_end_of(turn)
        except BaseException:  # Ctrl-C may come between any two lines
            self._end_turn()
            raise

    def _use(self, work: Callable[[], None]) -> None:
        try:
            self._user = threading.get_ident()
            work()
        except BaseException as error:
            self._fail(error)
            raise

    def _end_turn(self) -> None:
        """Let other threads use the engine. Does nothing in a thread that does not use it."""
        if self._user == threading.get_ident():
            self._user = 0
        with contextlib.suppress(RuntimeError):  # it belongs to another thread, or to none
            while True:
                self._engine_lock.release()
        self._turn = object()
        with contextlib.suppress(IndexError):
            while True:
                self._bells.popleft().release()

    def _await_end_of(self, turn: object) -> None:
        bell = threading.Lock()
        bell.acquire()
        self._bells.append(bell)
        if self._turn is turn:
            bell.acquire(timeout=1.0)  # Ctrl-C may have ended the turn without a sound

    def _run(self) -> None:
        while not self._is_closed:
            self._sleep.acquire()
            with contextlib.suppress(BaseException):  # the handles raise it
                self._until(lambda: self.is_idle, self._step)

    # ---- a turn: only one thread at a time is here --------------------------------------------------------------------

    def _step(self) -> None:
        """One step of the engine; once the runner is closed, the last one."""
        self._sweep()
        if self._is_closed:
            self._abort_all()
            self._is_over = True
        else:
            self._deliver(self._outputs_of_step())

    def _outputs_of_step(self) -> list[StepOutput]:
        """A step's outputs. If it fails, these end the requests in it, and their handles raise its error."""
        try:
            return self._engine.step()
        except Exception:  # noqa: BLE001 - it is the fault of those requests; the others go on
            return self._engine.outputs()

    def _sweep(self) -> None:
        """Carry out what was asked meanwhile. A call that Ctrl-C interrupts stays, and is carried out again."""
        while self._calls:
            self._calls[0]()
            self._calls.popleft()
        self._deliver(self._engine.outputs())

    def _admit(self, handle: Handle, add: Callable[[bool], Request], leader: Handle | None, call: Call) -> None:
        if handle.ended_at:
            return
        try:
            self._require_open()
            handle.request = add(call.is_admitted)
            call.is_admitted = True
            handle.request.leader = None if leader is None else leader.request
            self._handles[handle.request.id] = handle
        except Exception as error:  # noqa: BLE001 - the handle raises it, and the others go on
            handle._end(error)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        now = time.perf_counter()
        for output in outputs:
            handle = self._handles.get(output.request_id)
            if handle is not None:
                handle._put(output, now)
            if output.finish_reason is not None:
                self._handles.pop(output.request_id, None)
        if not self._engine.has_work:
            self._end_all()

    def _end_all(self) -> None:
        """End the handles whose last outputs were lost: nothing runs any more."""
        for handle in list(self._handles.values()):
            handle._end()
        self._handles.clear()

    def _fail(self, error: BaseException) -> None:
        """End all requests, and tell their handles why, unless it concerns this thread only (Ctrl-C)."""
        if isinstance(error, Exception) or threading.current_thread() is self._thread:
            for handle in list(self._handles.values()):
                handle.error = error
        self._abort_all()

    def _abort_all(self) -> None:
        self._engine.abort_all()
        self._deliver(self._engine.outputs())

    def _require_open(self) -> None:
        if self._is_closed:
            raise UsageError("the model was closed", hint="Load it again.")


def _raised(request: Request | None) -> Exception | None:
    """The error of a request that its handle raises."""
    fault = None if request is None else request.fault
    return None if isinstance(fault, NumericalError) else fault
