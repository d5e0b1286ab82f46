"""SIGTERM and Ctrl-C, also while code runs that Python cannot interrupt."""

import ctypes
import gc
import hashlib
import os
import signal
import threading
import time

import pytest

from loco_jax.cli import signals


def send(number: int = signal.SIGTERM, after: float = 0.05) -> None:
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


def outside_python() -> None:
    """Half a second or more in which no handler of Python's can run."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)


def test_who_listens_hears_at_once(own_sigterm):
    events = []
    signal.signal(signal.SIGTERM, lambda *_: events.append("handled"))
    before = signal.set_wakeup_fd(-1)
    with signals.listening(events.append):
        send()
        outside_python()
        events.append("went on")
    assert events[0] == signal.SIGTERM and set(events[1:]) == {"handled", "went on"}
    assert signal.set_wakeup_fd(before) == -1 and threading.active_count() < 20


@pytest.mark.parametrize("patience", [0.05, 60.0])
def test_code_outside_python_is_left_after_a_while(own_sigterm, monkeypatch, patience):
    monkeypatch.setattr(signals, "PATIENCE", patience)
    stuck = []
    with pytest.raises(KeyboardInterrupt), signals.sigterm_as_ctrl_c(lambda: stuck.append(1)):
        send()
        outside_python()
        time.sleep(5)
    assert stuck == [1] * (patience < 1)


def test_an_interrupt_that_python_drops_comes_again(own_sigterm):
    """Python drops what callbacks of the garbage collector raise; JAX has one."""

    def interrupted(phase, info):
        if phase == "start" and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # the handler runs here

    sent, went_on = [], []
    gc.callbacks.append(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt), signals.sigterm_as_ctrl_c():
            gc.collect()
            went_on.append(1)
            time.sleep(5)
    finally:
        gc.callbacks.remove(interrupted)
    assert sent == went_on == [1]


def test_what_a_library_takes_outside_python_is_taken_back(own_sigterm):
    """As the runtime of several processes does. Without a handler in Python, the library's stays."""
    libc, heard = ctypes.CDLL(None), []
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    ignore = 1  # SIG_IGN
    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    libc.signal(signal.SIGTERM, ignore)
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == []
    signals.take_back()
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [1]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    libc.signal(signal.SIGTERM, ignore)
    signals.take_back()
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_handler_that_has_heard_stays(own_sigterm):
    """That of training: a second signal, after its end, must not change how the command ends."""
    heard = []
    with signals.sigterm_as_ctrl_c(lambda: heard.append("stuck")):
        signal.signal(signal.SIGTERM, lambda *_: heard.append("training"))
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["training"] * 2
