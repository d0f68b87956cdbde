"""A job service on another machine: whether it is there, and how its job is stopped."""

from __future__ import annotations

import logging
import socket
from typing import Any

_LOG = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0


def check_endpoint(endpoint: str | None) -> None:
    """Looks whether a job service answers; Beam would wait for one that is not there without a word.

    Args:
        endpoint: host:port; anything else is left to Beam.

    Raises:
        ConnectionError: If nothing answers.
    """
    host, colon, port = (endpoint or "").rpartition(":")
    if not colon or not port.isdigit():  # none, "embed", or a name that only gRPC can resolve
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"--job_endpoint={endpoint}: nothing answers there ({error}). Is the job server running, and is "
            "its port reachable from this machine?"
        ) from error


def cancel_job(result: Any) -> None:  # noqa: ANN401 - Beam ships no types
    """Cancels a job, which would go on without us."""
    import grpc

    try:
        result.cancel()
    except grpc.RpcError as error:
        _LOG.warning("the job could not be cancelled and may still run: %s", error)
