"""What the exit code of the command says, for scripts and schedulers.

A code is told by the names of an error's classes: an error of a worker process arrives as text, of which the
name is all that is left.
"""

from __future__ import annotations

from enum import IntEnum

BEAM_STEP = " [while running "  # begins what Beam adds to the text of an error: the name of the step


class ExitCode(IntEnum):
    """Exit codes of `winnow`."""

    DONE = 0
    FAULT = 1
    CHANGE_NEEDED = 2
    TOO_MANY_FAILURES = 3
    UNBALANCED_BOOKS = 4
    OUTPUT_IN_USE = 5
    STOPPED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.FAULT: "a fault of winnow, of the engine or of a disk; run it again to resume",
    ExitCode.CHANGE_NEEDED: "the recipe, an input or an option must be changed; the message says which",
    ExitCode.TOO_MANY_FAILURES: "too many rows are unreadable, or the model failed on too many",
    ExitCode.UNBALANCED_BOOKS: "rows were lost or doubled; nothing was published; please report it",
    ExitCode.OUTPUT_IN_USE: "another run is writing to the output folder",
    ExitCode.STOPPED: "stopped by the user or by SIGTERM; run it again to resume",
}

CODES: dict[str, ExitCode] = {
    "TooManyBadRows": ExitCode.TOO_MANY_FAILURES,
    "TooManyFailedRows": ExitCode.TOO_MANY_FAILURES,
    "NothingScored": ExitCode.TOO_MANY_FAILURES,
    "UnbalancedBooks": ExitCode.UNBALANCED_BOOKS,
    "OutputInUse": ExitCode.OUTPUT_IN_USE,
    "KeyboardInterrupt": ExitCode.STOPPED,
    "ValueError": ExitCode.CHANGE_NEEDED,
    "RecipeError": ExitCode.CHANGE_NEEDED,
    "InputChanged": ExitCode.CHANGE_NEEDED,
    "ImportError": ExitCode.CHANGE_NEEDED,  # a package that the recipe needs is not installed
    "ModuleNotFoundError": ExitCode.CHANGE_NEEDED,
    "FileNotFoundError": ExitCode.CHANGE_NEEDED,
    "FileExistsError": ExitCode.CHANGE_NEEDED,
    "IsADirectoryError": ExitCode.CHANGE_NEEDED,
    "NotADirectoryError": ExitCode.CHANGE_NEEDED,
    "PermissionError": ExitCode.CHANGE_NEEDED,
}
"""By the name of a class of error. Any other (a full disk, a lost connection, a dead worker) is a FAULT."""


def exit_code_of(error: BaseException, cause: str = "") -> ExitCode:
    """The exit code of an error that ends the command.

    Args:
        error: The error.
        cause: For one that arrived as text, its last line: "package.module.Class: message".

    Example:
        >>> exit_code_of(FileNotFoundError()).name, exit_code_of(OSError()).name
        ('CHANGE_NEEDED', 'FAULT')
        >>> exit_code_of(RuntimeError(), "connectors.manifest.InputChanged: a.jsonl changed").name
        'CHANGE_NEEDED'
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    named = cause.partition(":")[0].rpartition(".")[2]
    return next((CODES[name] for name in (named, *names) if name in CODES), ExitCode.FAULT)


def codes_text() -> str:
    """The codes and what they say, a line each, for --help."""
    return "\n".join(f"{code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())


def cause_of(error: Exception) -> str:
    """What went wrong; of an error that no text explains, its class too."""
    if isinstance(error, RuntimeError):
        return _last_cause([line for line in str(error).splitlines() if line.strip()])
    explained = isinstance(error, ValueError | OSError | ImportError) and str(error)
    text = str(error) if explained else f"{type(error).__name__}: {error}"
    return text.split(BEAM_STEP)[0]


def _last_cause(lines: list[str]) -> str:
    """The line of an error text that says what went wrong; Beam's workers send whole tracebacks as text."""
    if not any(line.startswith("Traceback") for line in lines):
        return "\n".join(lines)
    causes = [
        line for line in lines if line[:1].isalpha() and ": " in line and not line.startswith("Traceback")
    ]
    return (causes or lines)[-1]
