"""Files on this machine and in object stores, by the few verbs that a run needs.

A path with a scheme ("s3://bucket/run") is reached through Beam's filesystems, so that Beam's options and the
credentials it finds apply; any other path is a file of this machine and costs nothing extra.

A file is complete under its name or not there. On a disk it is written under a temporary name and renamed.
An object store has no rename, and Beam's writers publish what they hold when they are closed, even by the
garbage collector after a failure. So a file is written here first, sent under a temporary name, held to its
size, and copied to its name inside the store, where a copy shows up whole.

What is read at random is fetched once into a cache folder of this process; `fetched` gives its path there.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from connectors.fetch_cache import CACHE
from connectors.storage_errors import retried

COPY_THREADS = 8
_WILD = frozenset("*?[")
Place = TypeVar("Place", str, Path)


def is_remote(path: str | Path) -> bool:
    """Whether a path names a place of a Beam filesystem and not of this machine."""
    return "://" in str(path)


def resolved(path: str | Path) -> str:
    """A path that means the same from any working directory, without a slash at its end.

    Raises:
        ValueError: For a place of a store whose name holds a wildcard of its listings.
    """
    if not is_remote(path):
        return str(Path(path).resolve())
    if _WILD & set(str(path)):
        raise ValueError(f"{path}: the name of an output must not hold any of * ? [")
    return str(path).rstrip("/")


def join(folder: Place, *names: str) -> Place:
    """The path of something inside a folder, of the type that the folder's has."""
    if isinstance(folder, Path):
        return folder.joinpath(*names)
    if is_remote(folder):
        return "/".join((folder.rstrip("/"), *names))
    return os.path.join(folder, *names)


def file_name(path: str | Path) -> str:
    """The last part of a path."""
    return posixpath.basename(str(path)) if is_remote(path) else os.path.basename(path)


def folder_of(path: str | Path) -> str:
    """The folder a file is in."""
    return posixpath.dirname(str(path)) if is_remote(path) else os.path.dirname(path)


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a file lies in a folder or in one below it."""
    if is_remote(path) or is_remote(folder):
        return str(path).startswith(f"{str(folder).rstrip('/')}/")
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def exists(path: str | Path) -> bool:
    """Whether there is such a file; a folder of this machine counts too.

    Raises:
        OSError: If the store cannot be asked.
    """
    if not is_remote(path):
        return os.path.exists(path)
    return bool(retried(path, lambda: _filesystem(path).exists(str(path))))


def file_bytes(path: str | Path) -> int:
    """Size of a file as stored, in bytes.

    Raises:
        OSError: If there is no such file.
    """
    if not is_remote(path):
        return os.path.getsize(path)
    found = list(_tree(str(path)).values())
    if not found:
        raise FileNotFoundError(f"{path}: no such file or bucket")
    return int(found[0].size_in_bytes)


def file_version(path: str | Path) -> tuple[int, float]:
    """What tells a file's present content from another, at a glance: its bytes and when it was last changed.

    Raises:
        OSError: If there is no such file.
    """
    if not is_remote(path):
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    found = list(_tree(str(path)).values())
    if not found:
        raise FileNotFoundError(f"{path}: no such file or bucket")
    return int(found[0].size_in_bytes), float(found[0].last_updated_in_seconds or 0)


def make_folder(folder: str | Path) -> None:
    """Makes a folder and its parents where a place has folders; stores have none."""
    if not is_remote(folder):
        os.makedirs(folder, exist_ok=True)


def file_names(folder: str | Path, ending: str = "") -> list[str]:
    """Names of the files right inside a folder, sorted; none when it is absent.

    Raises:
        OSError: If the store cannot be asked.
    """
    if is_remote(folder):
        names = [file_name(path) for path in _tree(f"{folder}/*")]
    elif os.path.isdir(folder):
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    else:
        names = []
    return sorted(name for name in names if name.endswith(ending))


def file_times(folder: str) -> dict[str, float]:
    """When each file right inside a folder of a store was written: seconds since 1970 by its clock."""
    return {file_name(path): file.last_updated_in_seconds for path, file in _tree(f"{folder}/*").items()}


def file_sizes(folder: str) -> dict[str, int]:
    """Bytes of each file right inside a folder, in name order."""
    if is_remote(folder):
        found = {file_name(path): int(file.size_in_bytes) for path, file in _tree(f"{folder}/*").items()}
        return dict(sorted(found.items()))
    return {name: os.path.getsize(join(folder, name)) for name in file_names(folder)}


def holds_files(folder: str) -> bool:
    """Whether there is such a folder; in a store, whether it holds any file."""
    return bool(_tree(f"{folder}/**", limit=1)) if is_remote(folder) else os.path.isdir(folder)


def folder_names(folder: str | Path) -> list[str]:
    """Names of the folders right inside a folder, sorted; none when it is absent."""
    if is_remote(folder):
        inside = [path.removeprefix(f"{folder}/") for path in _tree(f"{folder}/**")]
        return sorted({path.split("/", 1)[0] for path in inside if "/" in path})
    return (
        sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []
    )


def _tree(pattern: str, limit: int | None = None) -> dict[str, Any]:
    """What Beam knows of the files of a store that match a pattern, by path."""

    def listed() -> dict[str, Any]:
        found = _filesystem(pattern).match([pattern], [limit])[0].metadata_list
        return {file.path: file for file in found}

    return retried(pattern, listed)


def matching(pattern: str) -> list[str]:
    """Paths in a store that match a pattern of Beam's; a path without wildcards matches itself.

    Raises:
        OSError: If the store cannot be asked.
    """
    return list(_tree(pattern))


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file for reading as it is, without unpacking; seekable.

    Raises:
        OSError: If it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb", buffering=0)
    from apache_beam.io.filesystem import CompressionTypes

    stored = CompressionTypes.UNCOMPRESSED
    opened = retried(path, lambda: _filesystem(path).open(str(path), compression_type=stored))
    return cast(BinaryIO, opened)


def read_text(path: str | Path) -> str:
    """The text of a small file, as UTF-8.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
    """
    if not is_remote(path):
        return Path(path).read_text("utf-8")

    def text() -> str:
        with open_binary(path) as file:
            return file.read().decode()

    return retried(path, text)


def fetched(path: str | Path) -> str:
    """Where a file can be read at random on this machine: itself, or a copy of what a store holds.

    The copy is kept for the life of this process, as long as there is room. A file that this process
    replaces is fetched again at once, one that another replaces a few seconds later.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be had.
    """
    if not is_remote(path):
        return str(path)

    def version() -> str:
        now = _filesystem(path).metadata(str(path))
        return f"{now.size_in_bytes}-{now.last_updated_in_seconds}"

    return CACHE.get(
        str(path),
        lambda: retried(path, version),
        lambda target: retried(path, lambda: _download(str(path), target)),
    )


def _download(path: str, target: str) -> None:
    with open_binary(path) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)
    wanted = _filesystem(path).metadata(path).size_in_bytes
    if os.path.getsize(target) != wanted:
        raise ConnectionError(f"{path}: {os.path.getsize(target):,} of {wanted:,} bytes came")


@contextmanager
def whole_file(path: str | Path) -> Iterator[str]:
    """Writes a file whole or not at all.

    Gives a path of this machine to write to. What is there when the block ends without an error gets the
    final name; after an error nothing does.

    Raises:
        OSError: If it cannot be put in place.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="winnow-") as folder:
            written = os.path.join(folder, file_name(path))
            yield written
            _upload(written, str(path))
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Writes a small text file, as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        Path(temporary).write_text(text, "utf-8")


def _upload(source: str, path: str) -> None:
    def attempt() -> None:
        from apache_beam.io.filesystem import CompressionTypes

        sent = f"{path}.{uuid.uuid4().hex}.tmp"
        stored = CompressionTypes.UNCOMPRESSED
        target = _filesystem(path).create(sent, compression_type=stored)
        with open(source, "rb") as file:
            shutil.copyfileobj(file, target, 2**20)
        target.close()  # not in a `with`: closing after a failure would keep what was sent so far
        kept, wanted = _filesystem(path).metadata(sent).size_in_bytes, os.path.getsize(source)
        if kept != wanted:
            raise ConnectionError(f"{path}: the store kept {kept:,} of {wanted:,} bytes")
        copy(sent, path)
        remove([sent])

    retried(path, attempt)


def copy(source: str, target: str) -> None:
    """Copies a file inside a store, by the store itself; the target is complete or absent."""

    def attempt() -> None:
        # Beam's S3 filesystem returns errors, the others raise them
        for *_, error in _filesystem(source).copy([source], [target]) or ():
            if error is not None:
                raise error

    retried(source, attempt)
    CACHE.forget(target)


def copy_files(pairs: Iterable[tuple[str, str]]) -> None:
    """Copies files inside a store, several at a time: (source, target)."""
    with ThreadPoolExecutor(COPY_THREADS) as pool:
        list(pool.map(lambda pair: copy(*pair), pairs))


def remove(paths: Iterable[str | Path]) -> None:
    """Removes files; one that is not there is no error."""
    remote = []
    for path in paths:
        if is_remote(path):
            remote.append(str(path))
        else:
            Path(path).unlink(missing_ok=True)
    for path in remote:
        CACHE.forget(path)
    if remote:
        retried(remote[0], lambda: _filesystem(remote[0]).delete(remote))


def remove_files(folder: str, beginning: str = "", ending: str = "") -> None:
    """Removes the files right inside a folder whose names begin and end so."""
    remove([join(folder, name) for name in file_names(folder, ending) if name.startswith(beginning)])


def remove_folder(folder: str | Path) -> None:
    """Removes a folder and all it holds; one that is not there is no error."""
    if is_remote(folder):
        remove(_tree(f"{folder}/**"))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _filesystem(path: str | Path) -> Any:  # noqa: ANN401 - Beam ships no types
    from connectors.storage_clients import filesystem

    return filesystem(str(path))
