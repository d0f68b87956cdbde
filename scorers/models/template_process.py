"""Chat templates run in a process of their own, with bounds on time, memory and size.

A template is code that came with a model. The sandbox of transformers keeps it from files and from Python's
inner objects, but not from looping, and no thread can be stopped from outside. So one helper process renders
for each process that scores: the system ends it when a conversation takes too much processor time (which,
unlike time on the clock, is the same on a busy machine), and it sees none of the environment's secrets. This
file is also the program of the helper.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any, BinaryIO

CPU_SECONDS = 10.0  # for one conversation
MEMORY_BYTES = 4 * 2**30  # of the helper
SPARE_CHARS, CHARS_PER_CHAR = 1_000_000, 20  # most characters rendered: this many, and for each one put in
_WAIT_SECONDS = 300.0  # on the clock, for one that neither computes nor answers
_MAX_KILLS = 10  # of templates that run away; more means that the template is at fault and not the row
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class RenderError(ValueError):
    """A template that refuses its input, fails on it, or goes beyond its bounds."""


class _Helper:
    """The running process; ended when this object is."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        limits = [str(limit) for limit in (CPU_SECONDS, MEMORY_BYTES, SPARE_CHARS, CHARS_PER_CHAR)]
        self.owner = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-P", "-W", "ignore", __file__, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._rest = b""
        self.end = weakref.finalize(self, _end, self._process, self.owner)

    def ask(self, request: bytes) -> bytes:
        """The answer to one request, each one line.

        Raises:
            RenderError: If the process ends, or gives no answer.
        """
        if self._process.stdin is None:
            raise RenderError("the process that renders has no input")
        try:
            self._process.stdin.write(request + b"\n")
            self._process.stdin.flush()
            return self._line()
        except BrokenPipeError as error:
            raise RenderError("the process that renders templates has ended") from error

    def _line(self) -> bytes:
        until = time.monotonic() + _WAIT_SECONDS
        pieces = []
        output = self._process.stdout.fileno() if self._process.stdout else -1
        while True:
            ready, _, _ = select.select([output], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(output, 1 << 20) if ready else b""
            if not piece:
                raise RenderError(
                    f"the template used more than {CPU_SECONDS:g} s of processor time, or more memory than a "
                    "conversation can need"
                )
            pieces.append(piece)
            if piece.endswith(b"\n"):  # one answer at a time: nothing follows it
                return b"".join(pieces)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork holds a copy of the object, not the process
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


_LOCK = threading.Lock()
_STATE: dict[str, Any] = {"helper": None, "kills": 0}


def render_texts(
    template: str,
    variables: dict[str, str],
    messages: list[dict[str, Any]],
    tools: list[Any] | None,
    parts: list[tuple[int, bool]],
) -> list[str]:
    """Renders beginnings of one conversation.

    Args:
        template: Jinja text, in the dialect of transformers.
        variables: Names and texts of special tokens, as templates see them.
        messages: The whole conversation.
        tools: Tool definitions.
        parts: For each text, how many messages it has, and whether it ends with the header of an answer.

    Returns:
        One text for each part.

    Raises:
        RenderError: With what the template says, or which bound it passed.
        RuntimeError: If templates ran away too often in this process.
    """
    try:
        request = json.dumps([template, variables, messages, tools, parts]).encode()
    except RecursionError as error:
        raise RenderError("nested too deeply") from error
    with _LOCK:
        if _STATE["kills"] >= _MAX_KILLS:
            raise RuntimeError(
                f"the chat template ran away on {_MAX_KILLS} conversations ({CPU_SECONDS:g} s of processor "
                "time each); give another one: model.chat_template: plain, or the path of a Jinja file"
            )
        helper = _STATE["helper"]
        if helper is None or helper.owner != os.getpid():
            helper = _STATE["helper"] = _Helper()
        try:
            answer = json.loads(helper.ask(request))
        except RenderError:
            _STATE["kills"] += 1
            _STATE["helper"] = None
            helper.end()
            raise
        except BaseException:  # interrupted between question and answer: the next one would get this answer
            _STATE["helper"] = None
            helper.end()
            raise
    if isinstance(answer, str):
        raise RenderError(answer)
    texts: list[str] = answer
    return texts


def _serve(requests: BinaryIO, answers: BinaryIO, seconds: float, spare: int, ratio: int) -> None:
    """Answers each line of requests with the texts, or with a message."""
    from transformers.utils.chat_template_utils import render_jinja_template

    for request in requests:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # when it rings, the system ends the process
        try:
            answer: Any = _texts(render_jinja_template, json.loads(request), spare + ratio * len(request))
        # A template is foreign code in a sandbox: whatever it raises is its message about this conversation.
        except Exception as error:  # noqa: BLE001
            answer = f"{type(error).__name__}: {error}"[:200]
        written = json.dumps(answer).encode() + b"\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(written)
        answers.flush()


def _texts(render: Any, request: list[Any], most: int) -> list[str]:  # noqa: ANN401 - transformers is untyped
    template, variables, messages, tools, parts = request
    texts = []
    for end, header in parts:
        [text], _ = render(
            conversations=[messages[:end]],
            tools=tools,
            chat_template=template,
            add_generation_prompt=header,
            **variables,
        )
        if len(text) > most:
            raise ValueError(f"the template makes {len(text):,} characters of this, more than {most:,}")
        texts.append(text)
    return texts


def _main() -> None:
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the scoring process's; it ends this one
    seconds, memory, spare, ratio = sys.argv[1:]
    with contextlib.suppress(ValueError, OSError):  # macOS bounds no address space
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # and writes no file
    with open(sys.stdin.fileno(), "rb") as requests, open(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not look like an answer
        _serve(requests, answers, float(seconds), int(spare), int(ratio))


if __name__ == "__main__":
    _main()
