"""What ends a command from outside: Ctrl-C, SIGTERM, SIGHUP, and a reader of its messages that has gone.

The first of them raises KeyboardInterrupt in the main thread, wherever it is, so that a training saves its last step
and temporaries go away. A second Ctrl-C ends the process at once, also where the main thread is deep in a computation;
what it leaves behind is cleared by the next command. Before a command has begun its work the first one ends the
process. Once a command has ended and Python takes its modules down, they are ignored: the exit code stands.

What the caller has switched off (`nohup`, a shell's background jobs) stays off.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

CTRL_C = 128 + signal.SIGINT  # exit code
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME = 0.2  # seconds within which a second signal is taken for the first: wrappers pass on what the terminal sent, too
_AGAIN = 0.02  # seconds until an interruption that went astray is raised once more
_IMPORT = 5  # seconds that an interruption waits for an import at most

_first: int | None = None  # signal that ended this process
_since = 0.0
_reader_gone = _astray = False
_listening = _working = False


def listen() -> None:
    """Take the signals for this process, from its main thread; the command has not begun."""
    global _listening
    if _listening:
        return
    _listening = True
    atexit.register(_ignore)  # the first to register is the last to be called
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    sys.unraisablehook = _unraisable


def begin_work() -> None:
    """From here on a signal is an exception, not the end: there may be something to save or to clear away."""
    global _working
    _working = True


def end_work() -> None:
    """From here on a signal is the end."""
    global _working
    _working = False


def received() -> bool:
    """Whether something has ended this process."""
    return _first is not None


def exit_code() -> int:
    """Of a command that was interrupted: 130 after Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 where a reader has gone."""
    return 128 + (signal.SIGPIPE if _reader_gone else _first or signal.SIGINT)


def told() -> str:
    """What happened, to begin a line."""
    return "interrupted" if _first in (None, signal.SIGINT) else f"interrupted ({signal.Signals(_first).name})"


def reader_gone() -> None:
    """Nobody reads the messages any more: the same as a terminal that was closed, and ignored where that is."""
    global _reader_gone
    if _first is None:
        _reader_gone = True
        _tell(signal.SIGHUP)


def leave() -> None:
    """End the process as it stands."""
    with contextlib.suppress(OSError):
        os.write(2, f"{told()}\n".encode())
    os._exit(exit_code())


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what ends a command until the block is done: for what must happen whole or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    pending: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in ENDING:
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, lambda received, frame: pending.append(received))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number in pending[-1:]:
        if callable(handler := before[number]):
            handler(number, None)
        else:
            signal.raise_signal(number)


def _ignore() -> None:
    """Python gives every signal back its default as it shuts down, except those that are ignored."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    global _first, _since, _astray
    if _first is None:
        _first, _since, _astray = number, time.monotonic(), True
    if not _working:
        leave()
    if not _astray:
        return
    if _importing(frame) and time.monotonic() - _since < _IMPORT:
        _raise_again()
        return
    _astray = False
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception in a native one's start ends the process with a dump."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _watch(reading: int) -> None:
    """Ends the process at the second Ctrl-C: not by the main thread, which may be long in a computation."""
    global _first
    first = 0.0
    while content := os.read(reading, 64):
        now = time.monotonic()
        if first and signal.SIGINT in content and now - first > _SAME:
            _first = _first or signal.SIGINT
            leave()
        first = first or (now if set(content) & set(ENDING) else 0.0)


def _unraisable(lost: Any) -> None:
    """An interruption raised where Python drops exceptions (a destructor, a library's callback) is raised again."""
    global _astray
    if _first is None or not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    _astray = True
    _raise_again()


def _raise_again() -> None:
    timer = threading.Timer(_AGAIN, _tell, (signal.SIGTERM,))  # not as a second Ctrl-C
    timer.daemon = True
    timer.start()


def _tell(number: int) -> None:
    """Send the main thread a signal, which ends its waiting, too."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)
