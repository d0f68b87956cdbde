"""Which Beam runner a run uses, and what we refuse because it loses rows or hangs.

Local default: FnApiRunner in this process. `--workers N`: the same runner with N worker processes.
Anything else is given as Beam options after `--` and goes to a portable runner (Flink, Prism, Dataflow, a
job service); docs/cluster.md shows the options of each. Measured on Beam 2.77: `multi_threading` loses about
2 % of the rows of a shuffle, the Dask runner drops outputs without an error, and Beam only warns about an
option it does not know. All three are errors here.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.job_service import cancel_job, check_endpoint
from pipelines.run_log import CONTEXT
from scorers.models.cores import usable_cores

if TYPE_CHECKING:
    import apache_beam as beam

_LOG = logging.getLogger(__name__)

INTERRUPTED = ("-2", "130")  # exit codes of a worker that got the user's Ctrl-C too
LOCAL_RUNNERS = ("FnApiRunner", "DirectRunner", "direct", "local")
# What a step asks for that runs a model on a GPU, where `--resource_hints` says nothing else.
GPU_HINTS = (("accelerator", "type:nvidia-l4;count:1;install-nvidia-driver"), ("min_ram", "16GB"))


class DeadWorker(RuntimeError):  # noqa: N818 - reads as what happened
    """A worker process ended while Beam was waiting for it (killed, or out of memory)."""


@dataclass(frozen=True)
class RunnerChoice:
    """How the pipelines of a run are executed.

    Attributes:
        flags: Beam options, as on a command line, without the runner's.
        runner: Name of a Beam runner.
        workers: Worker processes of the local runner; 1 means this process.
        hints: What a step asks of a cluster's machine that runs a model on a GPU: Beam's resource hints.
        job_endpoint: host:port of a job service that is there already.
    """

    runner: str = "FnApiRunner"
    workers: int = 1
    flags: tuple[str, ...] = ()
    hints: tuple[tuple[str, str], ...] = GPU_HINTS
    job_endpoint: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the pipelines run on this machine's FnApiRunner."""
        return self.runner == "FnApiRunner"

    def options(self, *, parallel: bool) -> Any:  # noqa: ANN401 - Beam ships no types
        """Beam's PipelineOptions for one stage.

        Args:
            parallel: False for a stage with a single unit of work, which starts no worker processes.
        """
        from apache_beam.options.pipeline_options import PipelineOptions

        flags = [f"--runner={self.runner}", *self.flags]
        if self.is_local:
            mode = "multi_processing" if parallel and self.workers > 1 else "in_memory"
            flags += [
                f"--direct_running_mode={mode}",
                f"--direct_num_workers={self.workers if parallel else 1}",
            ]
        elif CONTEXT.run_id and not any(flag.startswith("--job_name") for flag in flags):
            flags.append("--job_name=" + "-".join(filter(None, ("winnow", CONTEXT.stage, CONTEXT.run_id))))
        return PipelineOptions(flags=flags)

    def model_hints(self, device: object) -> dict[str, str]:
        """Resource hints of a step that runs a model; none on this machine, nor where the CPU runs it.

        A cluster gives such a step workers of its own, so that only they need a GPU.

        Args:
            device: "cpu" or "cuda", as of a model's fingerprint.
        """
        return dict(self.hints) if device == "cuda" and not self.is_local else {}

    @property
    def threads(self) -> int:
        """CPU threads of one piece of work: the share of a worker process in the cores of this machine.

        One elsewhere: a cluster runs as many pieces side by side as its machines have slots.
        """
        return max(1, usable_cores() // self.workers) if self.is_local else 1


def choose_runner(workers: int, beam_args: Sequence[str]) -> RunnerChoice:
    """Checks Beam's options and refuses what would lose rows.

    Args:
        workers: Local worker processes (`--workers`).
        beam_args: Everything after `--` on the command line.

    Raises:
        ValueError: For an option Beam does not know, and for runners and modes that lose rows.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least 1 is needed")
    if not beam_args:
        return RunnerChoice(workers=workers)
    known, unknown = _beam_parser().parse_known_args(list(beam_args))
    if unknown:
        raise ValueError(
            f"Beam knows no option {unknown[0]!r}. Beam itself would only warn and go on without it. "
            "See `python -m apache_beam.options.pipeline_options` or Beam's documentation of its runner."
        )
    _refuse(known)
    runner = (known.runner or "FnApiRunner").rsplit(".", 1)[-1]
    flags = tuple(_without(beam_args, "--runner"))
    if runner in LOCAL_RUNNERS:
        # The bare DirectRunner tries to download Prism; FnApiRunner is what it falls back to.
        count = int(known.direct_num_workers or 1)
        for name in ("--direct_num_workers", "--direct_running_mode"):
            flags = tuple(_without(flags, name))
        return RunnerChoice(workers=max(workers, count), flags=flags)
    if workers > 1:
        raise ValueError(
            f"--workers is for the local runner; with {runner} give its own option for parallelism"
        )
    hints, flags = _model_hints(known.resource_hints, flags)
    return RunnerChoice(runner=runner, flags=flags, hints=hints, job_endpoint=known.job_endpoint)


def _model_hints(
    given: Sequence[str], flags: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Keeps accelerator and memory for the steps that run a model; Beam would give them to every step."""
    hints, others = dict(GPU_HINTS), []
    for hint in given:
        name, _, value = hint.partition("=")
        if name in hints:
            hints[name] = value
        else:
            others.append(f"--resource_hints={hint}")
    for option in ("--resource_hint", "--resource_hints"):
        flags = tuple(_without(flags, option))
    return tuple(hints.items()), (*flags, *others)


def _beam_parser() -> argparse.ArgumentParser:
    from apache_beam.options import pipeline_options

    parser: argparse.ArgumentParser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    classes = {str(c): c for c in pipeline_options.PipelineOptions.__subclasses__()}
    for options in classes.values():
        options._add_argparse_args(parser)
    return parser


def _refuse(known: argparse.Namespace) -> None:
    runner = known.runner or ""
    if "multi_threading" in (known.direct_running_mode or ""):
        raise ValueError(
            "direct_running_mode=multi_threading loses rows: about 2 % of a 200,000-row shuffle in "
            "Beam 2.77, without an error. Use --workers N (worker processes) instead."
        )
    if "Dask" in runner:
        raise ValueError(
            f"--runner={runner}: Beam's Dask runner drops outputs without an error (finish_bundle, tagged "
            "outputs, all but the last branch). Use --workers N, or a portable runner."
        )
    if "BundleBased" in runner:
        raise ValueError(f"--runner={runner}: has no batched DoFns, which scoring needs. Use the default.")
    if "Prism" in runner and not known.prism_location:
        raise ValueError(
            "--runner=PrismRunner downloads a binary; name a local one with --prism_location=PATH"
        )


def _without(flags: Sequence[str], name: str) -> Iterator[str]:
    skip = False
    for flag in flags:
        if skip:
            skip = False
        elif flag == name:
            skip = True
        elif not flag.startswith(f"{name}="):
            yield flag


def run_pipeline(
    choice: RunnerChoice,
    build: Callable[[beam.Pipeline], None],
    *,
    parallel: bool,
    log: Path | None = None,
) -> Any:  # noqa: ANN401 - Beam ships no types
    """Builds and runs one Beam pipeline to its end.

    Args:
        choice: How to run it.
        build: Adds the steps.
        parallel: Whether there is work for more than one process.
        log: Where the local worker processes' chatter goes; None leaves it on standard error.

    Returns:
        Beam's PipelineResult, which has the pipeline's metrics.

    Raises:
        ConnectionError: If nothing answers at the job endpoint.
        DeadWorker: If a local worker process ended early.
        KeyboardInterrupt: On Ctrl-C; a job on a cluster is cancelled.
        RuntimeError: What the pipeline raised; from a worker process it carries the traceback as text.
    """
    import apache_beam as beam

    STOP.check()
    check_endpoint(choice.job_endpoint)
    result: Any = None
    chatter = _stderr_to(log) if log and choice.workers > 1 and parallel else contextlib.nullcontext()
    with chatter, _plain_labels(), _dead_worker_watch() as watch:
        try:
            pipeline = beam.Pipeline(options=choice.options(parallel=parallel))
            build(pipeline)
            result = pipeline.run()
            state = result.wait_until_finish()
        except KeyboardInterrupt as error:
            if watch.reason:
                raise DeadWorker(watch.reason) from error
            if result is not None and not choice.is_local:
                cancel_job(result)
            raise
        except RuntimeError as error:
            # FnApiRunner wraps Ctrl-C: RuntimeError('KeyboardInterrupt [while running ...]')
            if str(error).startswith("KeyboardInterrupt"):
                raise (DeadWorker(watch.reason) if watch.reason else KeyboardInterrupt()) from error
            raise
    STOP.check()
    if state not in (None, "DONE"):
        raise RuntimeError(f"the {choice.runner} pipeline ended in state {state}; see the runner's own log")
    return result


@contextlib.contextmanager
def _plain_labels() -> Iterator[None]:
    """Keeps Beam from putting the number of a notebook's cell before the names of steps.

    It would load its data frames for that, which pandas 3 breaks (Beam 2.77).
    """
    from apache_beam import pipeline

    before = pipeline.alter_label_if_ipython
    pipeline.alter_label_if_ipython = lambda *_: None
    try:
        yield
    finally:
        pipeline.alter_label_if_ipython = before


@contextlib.contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Sends file descriptor 2 to a file: worker processes inherit it and log every connection there."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


OURS = signal.SIGUSR2  # interrupts this process when a worker dies; SIGINT means that the user did


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
    if not STOP.caught:
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

        if isinstance(args.exc_value, grpc.RpcError):
            # A worker that ends, well or not, breaks its connections; what went wrong comes by itself.
            _LOG.debug("connection to a worker ended", exc_info=args.exc_value)
        elif "Worker subprocess exited" not in str(args.exc_value):
            self.previous(args)
        elif self.watch and not STOP.caught:
            code = str(args.exc_value).rsplit(" ", 1)[-1]
            if not (STOP.requested or code in INTERRUPTED):
                self.watch.reason = (
                    f"a worker process ended with exit code {code} while it still had work (137 and -9 "
                    "mean killed, usually out of memory). Use fewer workers or a smaller model; "
                    "run again to resume."
                )
                _kill_workers()
            _send_main_thread(self.watch.signal)


@contextlib.contextmanager
def _dead_worker_watch() -> Iterator[_Watch]:
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
