"""Handling of SIGTERM and Ctrl-C, with which clusters, containers and users stop a process."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 5.0  # seconds that a signal may wait for code outside Python
_AGAIN = 0.05  # seconds until a signal is sent again if its KeyboardInterrupt was lost


@contextlib.contextmanager
def sigterm_as_ctrl_c(stuck: Callable[[], None] | None = None) -> Iterator[None]:
    """While entered, the first SIGTERM raises KeyboardInterrupt, so that files in progress are removed or completed.

    Further ones do nothing: some launchers send two, and the second would interrupt the clean-up. Code outside Python,
    such as the compiler, cannot be interrupted. If it takes longer than PATIENCE, a thread calls `stuck`, if given.
    Python drops exceptions in some callbacks, such as JAX's of the garbage collector. The signal is then sent again.
    """
    if not _can_handle():
        yield
        return
    old, came = signal.getsignal(signal.SIGTERM), threading.Event()

    def stop(*_) -> None:
        if not came.is_set():
            came.set()
            raise KeyboardInterrupt

    def hear(number: int) -> None:
        ours = number == signal.SIGTERM and signal.getsignal(number) is stop
        if stuck and ours and not came.wait(PATIENCE):
            stuck()

    def send_again(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return hook(unraisable)
        came.clear()
        threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()

    hook, sys.unraisablehook = sys.unraisablehook, send_again
    signal.signal(signal.SIGTERM, stop)
    try:
        with listening(hear) if stuck else contextlib.nullcontext():
            yield
    finally:
        if sys.unraisablehook is send_again:
            sys.unraisablehook = hook
        # A handler that has heard a signal stays: a second signal must not change the exit status.
        if not came.is_set() and signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, old)


def take_back() -> None:
    """Restores Python's handler of SIGTERM, if there is one, after a library has set a handler outside Python."""
    handler = signal.getsignal(signal.SIGTERM)
    if _can_handle() and callable(handler):
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def listening(hear: Callable[[int], None]) -> Iterator[None]:
    """While entered, a thread calls `hear` at once with the number of each signal that has a handler in Python.

    The handlers themselves wait until code outside Python, such as a training step, ends.
    """
    if not _can_handle():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)

    def listen() -> None:
        with open(read, "rb", buffering=0) as numbers:
            while number := numbers.read(1):  # empty when the other end is closed
                hear(number[0])

    old, thread = signal.set_wakeup_fd(write, warn_on_full_buffer=False), threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        os.close(write)
        thread.join()


class StopRequest:
    """While entered, SIGTERM and SIGINT ask a loop of steps to stop instead of ending the process.

    `say` acknowledges the first signal at once, even during a step; the loop may start `more` steps after it. A second
    SIGINT interrupts. Further SIGTERMs do nothing, even after leaving: launchers send some twice, and a second one
    would change the exit status.

    Attributes:
      name: the name of the signal that came, or "".
    """

    def __init__(self, say: Callable[[str], None], more: int):
        self.name = ""
        self._steps = f"the steps under way and at most {more} more are" if more else "the step under way is"
        self._say, self._is_told = say, False
        self._old: dict[int, Any] = {}
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        if _can_handle():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.getsignal(number)
                signal.signal(number, self._ask)
            self._listening.enter_context(listening(self._acknowledge))
        return self

    def __exit__(self, *_) -> None:
        self._listening.close()
        for number, old in self._old.items():
            if number == signal.SIGINT or not self.name:
                signal.signal(number, old)

    def _acknowledge(self, number: int) -> None:
        if number in self._old and not self._is_told:
            self._is_told = True
            self._say(f"{signal.Signals(number).name}: {self._steps} finished and saved, then this ends")

    def _ask(self, number: int, _) -> None:
        self.name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, self._old[number])


def _can_handle() -> bool:
    """Only the main thread may set handlers."""
    return threading.current_thread() is threading.main_thread()
