"""How a command stops: the user's signals, and worker processes that die while Beam waits for them."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)

INTERRUPTED = ("-2", "130")  # exit codes of a worker that got the user's Ctrl-C too
OURS = signal.SIGUSR2  # interrupts this process when a worker dies; SIGINT means that the user did


class DeadWorker(RuntimeError):  # noqa: N818 - reads as what happened
    """A worker process ended while Beam was waiting for it (killed, or out of memory)."""


class Stop:
    """Whether the user asked the command to stop, for what a KeyboardInterrupt alone cannot tell.

    Python drops a KeyboardInterrupt that is raised inside a destructor, and Beam has many.

    Attributes:
        requested: A signal came.
        caught: The command is on its way out; later signals say nothing new.
    """

    requested = False
    caught = False

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was lost on its way here, if one was."""
        if self.requested and not self.caught:
            raise KeyboardInterrupt


STOP = Stop()


def stop_on_signals() -> None:
    """Lets SIGINT and SIGTERM stop this process for good; for a command, in its main thread.

    Worker processes are killed first, which costs nothing, as a file that was not finished is not there: a
    worker that gets Ctrl-C while it starts would never end, and Beam would wait for it.
    """

    def on_signal(*_: object) -> None:
        if not STOP.caught:
            STOP.requested = True
            _kill_workers()
            raise KeyboardInterrupt

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
        elif not STOP.caught:  # it was raised inside a destructor: try again a little later
            number = signal.SIGINT if STOP.requested else OURS
            threading.Timer(0.2, _send_main_thread, [number]).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    sys.unraisablehook = unraisable


def _send_main_thread(number: int) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@dataclass
class _Watch:
    """What to do when a worker dies.

    Attributes:
        signal: That interrupts the main thread.
        reason: Why a worker died; empty while none did.
    """

    signal: int
    reason: str = ""


class _ThreadErrors:
    """What becomes of an exception in one of Beam's helper threads, which nobody catches.

    It stays in place once a pipeline has run: the threads of its workers may end a little after it.

    Attributes:
        previous: Gets every exception that is none of ours.
        watch: Where the death of a worker is noted; None while no pipeline runs.
    """

    def __init__(self, previous: Callable[[threading.ExceptHookArgs], object]) -> None:
        self.previous = previous
        self.watch: _Watch | None = None

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        import grpc

        watch = self.watch
        if isinstance(args.exc_value, grpc.RpcError):
            # A worker that ends, well or not, breaks its connections; what went wrong comes by itself.
            _LOG.debug("connection to a worker ended", exc_info=args.exc_value)
        elif "Worker subprocess exited" not in str(args.exc_value):
            self.previous(args)
        elif watch and not STOP.caught:
            code = str(args.exc_value).rsplit(" ", 1)[-1]
            if not (STOP.requested or code in INTERRUPTED):
                watch.reason = (
                    f"a worker process ended with exit code {code} while it still had work (137 and -9 "
                    "mean killed, usually out of memory). Use fewer workers or a smaller model; "
                    "run again to resume."
                )
                _kill_workers()
            if self.watch is watch:  # the pipeline may have ended meanwhile, by the death of its workers
                _send_main_thread(watch.signal)


@contextlib.contextmanager
def dead_worker_watch() -> Iterator[_Watch]:
    """Interrupts the main thread when a local worker process dies.

    Beam notices in a helper thread, whose exception nobody sees, and waits for the dead worker for ever.
    """
    hook = threading.excepthook
    if not isinstance(hook, _ThreadErrors):
        hook = threading.excepthook = _ThreadErrors(hook)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(OURS, _interrupt) if in_main else None
    hook.watch = watch = _Watch(OURS if in_main else signal.SIGINT)
    try:
        yield watch
    finally:
        hook.watch = None
        if in_main:  # one that is still on its way must not end the process, as it would by default
            signal.signal(OURS, before if callable(before) else signal.SIG_IGN)


def _kill_workers() -> None:
    """Kills the Beam workers that this process started."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("sdk_worker_main" in part for part in child.cmdline()):
                child.kill()
