"""What every command does at a terminal: it says things, and ends with a message and an exit code.

Heavy imports stand inside the functions, so that --help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from pipelines.exit_codes import ExitCode, cause_of, exit_code_of

if TYPE_CHECKING:
    from rich.console import Console

RUN_LOG = "run.log"


@contextmanager
def failures(out: str | None = None) -> Iterator[None]:
    """Turns what users can mend into a message and an exit code; keeps the traceback of the rest in OUT."""
    import traceback

    from pipelines.interrupts import STOP, stop_on_signals

    stop_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        raise _stopped() from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 - nobody else is left to say what happened, whatever it is
        if STOP.requested:  # what Beam makes of its workers' end may come before our own exception
            raise _stopped() from error
        cause = cause_of(error)
        code, whole, where = exit_code_of(error, cause), traceback.format_exc(), ""
        if code is ExitCode.FAULT or cause != str(error):
            where = f"\nThe whole error: {_keep_log(out, whole)}."
            where += " What was finished is kept; run again to go on from there." if out else ""
        say(f"winnow: {cause}{where}", "ERROR", error=whole if code is ExitCode.FAULT else None)
        raise typer.Exit(code) from error


def _stopped() -> typer.Exit:
    import signal

    from pipelines.interrupts import STOP

    STOP.caught = True
    # While Python ends, it gives signals back their defaults: one that a dying worker caused would kill it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say("\nStopped. What was finished is kept; run the same command again to go on from there.", "WARNING")
    return typer.Exit(ExitCode.STOPPED)


def _keep_log(out: str | None, text: str) -> str:
    """Writes OUT/run.log, or a file of the temporary folder when there is no OUT to write to."""
    import tempfile

    from connectors.secrets import without_secrets
    from connectors.storage import join, make_folder, write_text

    text = without_secrets(text)
    if out is not None:
        try:
            make_folder(out)
            write_text(join(out, RUN_LOG), text)
            return join(out, RUN_LOG)
        except (OSError, ValueError):  # ValueError: no package for such a store
            pass  # the log goes to the temporary folder, and the message says so
    log = join(tempfile.mkdtemp(prefix="winnow-"), RUN_LOG)
    write_text(log, text)
    return log


def reach_stores(beam_args: list[str]) -> None:
    """Gives Beam's filesystems the options after `--`, such as --s3_endpoint_url."""
    if beam_args:
        from connectors.storage_clients import set_options
        from pipelines.runner import choose_runner

        set_options(choose_runner(1, beam_args).flags)


def console() -> Console:
    """A console on a copy of standard error, which still shows while workers' chatter goes to a file."""
    import os

    from rich.console import Console

    return Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"), highlight=False)


def say(text: str, level: str = "INFO", **fields: Any) -> None:  # noqa: ANN401 - any JSON
    """Says a line on standard error; `fields` only as JSON (see pipelines/run_log.py)."""
    from connectors.secrets import without_secrets
    from pipelines.run_log import CONTEXT, say

    text = without_secrets(text)
    if CONTEXT.as_json:
        import logging

        say(logging.getLevelNamesMapping()[level], text.strip(), **fields)
    else:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the command's output


def show(text: str = "") -> None:
    """Shows a line on standard output."""
    print(text, flush=True)  # noqa: T201 - the command's output


def quiet_libraries(verbose: bool, log_format: str = "text") -> None:
    """Keeps Beam's and transformers' chatter off the terminal; call it before importing Beam."""
    import logging
    import os

    from pipelines.run_log import CONTEXT, log_json, new_run_id

    CONTEXT.run_id = new_run_id()
    if log_format == "json":
        log_json(verbose)

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if verbose else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(name)s: %(message)s"
    )
    if not verbose:
        # Beam logs the traceback of every error that it then raises.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
