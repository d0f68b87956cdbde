"""Beam's filesystem for a path, with a clear word when its package is missing."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from connectors.storage_errors import retried

# scheme → (what it needs, the extra that brings it)
_NEEDED = {"s3": ("boto3", "aws"), "gs": ("google.cloud.storage", "gcp")}
_CLIENTS = threading.Lock()
NO_ANSWER = 0  # in the place of an HTTP status
OPTIONS = "WINNOW_STORE_OPTIONS"  # environment variable with a JSON list
_taken: set[str] = set()  # what this process gave to Beam of it


def set_options(flags: Sequence[str]) -> None:
    """Gives Beam's filesystems the options of a run, in this process and in the workers it starts.

    Workers on other machines get them from Beam; its local runner starts worker processes without any
    (2.77), so those find them in their environment.

    Args:
        flags: Beam options as on a command line, for example --s3_endpoint_url=URL.
    """
    os.environ[OPTIONS] = json.dumps(list(flags))
    _taken.clear()
    _take_options()


def _take_options() -> None:
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    given = os.environ.get(OPTIONS)
    with _CLIENTS:
        if given and given not in _taken:
            FileSystems.set_options(PipelineOptions(flags=json.loads(given)))
            _taken.add(given)


def filesystem(path: str) -> Any:  # noqa: ANN401 - Beam ships no types
    """The Beam filesystem that holds a path.

    Raises:
        ValueError: If there is none for its scheme, or its package is not installed.
    """
    scheme = path.split("://", 1)[0]
    module, extra = _NEEDED.get(scheme, ("", ""))
    if module and not _installed(module):
        raise ValueError(f"{path}: {scheme}:// needs {module}: pip install 'winnow[{extra}]'")
    from apache_beam.io.filesystems import FileSystems

    _take_options()
    try:
        found = FileSystems.get_filesystem(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: Beam knows no filesystem {scheme}:// here; use s3://, gs:// or a path"
        ) from error
    if scheme == "s3":
        _keep_s3_client()
    if scheme == "gs":
        _keep_gcs_client()
    return found


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def _keep_s3_client() -> None:
    """Lets Beam build one boto3 client for its options instead of one, in 0.1 to 0.3 s, for every request."""
    from apache_beam.io.aws.clients.s3 import boto3_client

    with _CLIENTS:
        if hasattr(boto3_client.Client, "kept"):
            return

        class KeptClient(boto3_client.Client):
            """Beam's client, with its own position in a download and everybody's connections."""

            client: Any
            kept: tuple[Any, Any] = (None, None)  # the options and the boto3 client for them
            building = threading.Lock()

            def __init__(self, options: Any) -> None:  # noqa: ANN401 - Beam ships no types
                with KeptClient.building:
                    if KeptClient.kept[0] is not options or options is None:
                        super().__init__(options)
                        KeptClient.kept = (options, self.client)
                    self.client = KeptClient.kept[1]
                self._download_request = self._download_stream = None
                self._download_pos = 0

            def get_range(self, request: Any, start: int, end: int) -> bytes:  # noqa: ANN401 - Beam's own
                """The bytes from start to end, exclusive."""
                piece = super().get_range
                place = f"s3://{request.bucket}/{request.object}"
                return bytes(retried(place, lambda: piece(request, start, end)))

        boto3_client.Client = KeptClient
        # Beam takes a request without an answer (no network, no credentials) for an error of the server and
        # asks again for ten minutes; we ask again ourselves, and only where it helps.
        status = boto3_client.get_http_error_code
        boto3_client.get_http_error_code = lambda error: status(error) or NO_ANSWER


def _keep_gcs_client() -> None:
    """Lets Beam build one Google client in each thread for its options instead of one for every request."""
    from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem

    with _CLIENTS:
        if hasattr(GCSFileSystem, "kept"):
            return
        build, kept = GCSFileSystem._gcsIO, threading.local()

        def client(self: Any) -> Any:  # noqa: ANN401 - Beam ships no types
            made_for = (self._pipeline_options, os.environ.get("STORAGE_EMULATOR_HOST"))
            if getattr(kept, "made_for", None) != made_for:
                kept.client, kept.made_for = build(self), made_for
            return kept.client

        GCSFileSystem._gcsIO, GCSFileSystem.kept = client, kept
