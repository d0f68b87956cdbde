"""What goes wrong with object stores: what is worth trying again, and one clear sentence for the rest."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")

DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt, half to one and a half times
PATIENCE_SECONDS = 60.0  # after which no further attempt begins: clients have waited long by themselves
_NOT_YET = (408, 429)  # client errors that pass: timeout, too many requests
_CREDENTIALS = (
    "credentials",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "Anonymous caller",
)


class StoreFailed(OSError):  # noqa: N818 - reads as what happened
    """A store that failed at every attempt."""


_PERMANENT = (
    StoreFailed,
    FileNotFoundError,
    PermissionError,
    ValueError,
    TypeError,
    AssertionError,
    ImportError,
)


def retried(path: str | Path, call: Callable[[], _Result]) -> _Result:
    """The result of a request to a store, asked again when it fails for a reason that passes.

    Args:
        path: What it is about, for the message.
        call: The request; must be safe to repeat.

    Raises:
        FileNotFoundError: If there is no such file or bucket.
        PermissionError: If there are no credentials, or these may not do it.
        StoreFailed: If it still fails after the last attempt.
    """
    began = time.monotonic()
    for delay in (*DELAYS, None):
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - the stores' clients share no base class
            late = time.monotonic() - began > PATIENCE_SECONDS
            if delay is None or late or not _passes(error):
                raise _explained(str(path), error) from error
            _LOG.info("%s: trying again after %r", path, error)
            time.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads requests, no secret
    raise AssertionError("the last attempt returns or raises")


def _passes(error: BaseException) -> bool:
    """Whether a failure may be gone at the next attempt."""
    if any(isinstance(cause, _PERMANENT) for cause in _causes(error)) or _about_credentials(error):
        return False
    status = _http_status(error)
    return not status or status >= 500 or status in _NOT_YET


def _explained(path: str, error: Exception) -> Exception:
    """The error to raise for a failure: what, where, and what to do."""
    if isinstance(error, _PERMANENT):
        return error
    status, text = _http_status(error), _text([*_causes(error)][-1])
    if _about_credentials(error) or status in (401, 403):
        return PermissionError(
            f"{path}: no access: {_short(text)}. Check the credentials that this machine has for the store."
        )
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return FileNotFoundError(f"{path}: the bucket does not exist; make it, or correct its name")
    if status == 404 or any(isinstance(cause, FileNotFoundError) for cause in _causes(error)):
        return FileNotFoundError(f"{path}: no such file or bucket")
    return StoreFailed(f"{path}: the store does not answer as it should: {_short(text)}")


def _about_credentials(error: BaseException) -> bool:
    return any(word in str(error) for word in _CREDENTIALS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that Beam packed into it."""
    yield error
    details = getattr(error, "exception_details", None)
    for cause in details.values() if isinstance(details, dict) else ():
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def _http_status(error: BaseException) -> int | None:
    """The status a store answered with, None if it did not answer at all."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        for value in (getattr(cause, "code", None), getattr(response, "status_code", None)):
            if isinstance(value, int):
                return int(value)
        details = getattr(cause, "exception_details", None)
        codes = (
            [value for value in details.values() if isinstance(value, int)]
            if isinstance(details, dict)
            else []
        )
        if codes:
            return codes[0]
    return None


def _text(error: BaseException) -> str:
    """What an error says; that of Beam's S3 client is a pair of text and status."""
    return str(error.args[0] if error.args and isinstance(error.args[0], str) else error)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]} …"
