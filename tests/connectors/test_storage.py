"""Files on a disk and in object stores: whole or absent, read back as written, clear words when it fails."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors import fetch_cache, readers, storage, storage_clients, storage_errors
from connectors.fetch_cache import FetchCache
from connectors.inputs import InputSpec, find_files
from connectors.readers import read_examples, split_file
from connectors.shards import (
    parquet_files,
    read_array,
    read_footer,
    read_rows_between,
    read_stats,
    write_array,
    write_parquet,
)
from connectors.storage_errors import StoreFailed, retried
from tests.stores import BUCKET, Stores, running_stores

ROWS = pa.table({"row": pa.array(range(5000), pa.int64()), "text": [f"text {i}" for i in range(5000)]})


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with running_stores(tmp_path_factory.mktemp("credentials")) as running:
        yield running


@pytest.fixture(params=["disk", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on a disk, and one in each store."""
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("stores")
    return f"{request.param}://{BUCKET}/{request.node.name.split('[')[0]}"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets retries happen at once; the seconds that they would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("connectors.storage_errors.time.sleep", waited.append)
    return waited


def test_what_is_written_is_read_back_under_its_name_alone(folder: str) -> None:
    path = storage.join(folder, "a", "b.json")
    storage.make_folder(storage.join(folder, "a"))
    assert not storage.exists(path)
    storage.write_text(path, "größe\n")
    assert storage.exists(path)
    assert storage.read_text(path) == "größe\n"
    assert storage.file_bytes(path) == 8
    assert storage.file_sizes(storage.join(folder, "a")) == {"b.json": 8}
    assert storage.folder_names(folder) == ["a"]
    assert storage.file_names(folder) == []
    assert (storage.file_name(path), storage.folder_of(path)) == ("b.json", storage.join(folder, "a"))


def test_a_failed_writer_leaves_nothing(folder: str) -> None:
    path = storage.join(folder, "x.bin")

    def fail() -> None:
        with storage.whole_file(path) as temporary:
            Path(temporary).write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert storage.file_names(folder) == []


def test_a_file_that_is_replaced_is_fetched_again(folder: str) -> None:
    path = storage.join(folder, "x.txt")
    for text in ("one", "two"):
        storage.write_text(path, text)
        assert Path(storage.fetched(path)).read_text("utf-8") == text
    assert storage.fetched(path) == storage.fetched(path)
    storage.remove([path])
    with pytest.raises(FileNotFoundError, match=r"x\.txt"):
        Path(storage.fetched(path)).read_text("utf-8")


def test_files_and_folders_are_removed_and_what_is_not_there_is_no_error(folder: str) -> None:
    for name in ("part-1", "part-2", "other.tmp", "kept"):
        storage.write_text(storage.join(folder, name), name)
    storage.make_folder(storage.join(folder, "below"))
    storage.write_text(storage.join(folder, "below", "deep"), "deep")
    storage.remove_files(folder, "part-")
    storage.remove_files(folder, ending=".tmp")
    storage.remove([storage.join(folder, "never")])
    assert storage.file_names(folder) == ["kept"]
    assert storage.holds_files(storage.join(folder, "below"))
    storage.remove_folder(storage.join(folder, "below"))
    storage.remove_folder(storage.join(folder, "never"))
    assert not storage.holds_files(storage.join(folder, "below"))
    assert storage.file_names(folder) == ["kept"]


def test_shards_and_arrays_are_the_same_everywhere(folder: str, tmp_path: Path) -> None:
    path = storage.join(folder, "x.parquet")
    for place in (path, str(tmp_path / "here.parquet")):
        write_parquet(place, ROWS, ROWS.schema, {"kept": 3})
    assert Path(storage.fetched(path)).read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert read_stats(path) == {"kept": 3, "rows": 5000}
    assert read_footer(path).num_row_groups == 3
    assert read_rows_between(path, 2040, 2050)["row"].to_pylist() == list(range(2040, 2050))
    assert path in parquet_files(folder)
    write_array(storage.join(folder, "x.npy"), np.arange(3))
    assert read_array(storage.join(folder, "x.npy")).tolist() == [0, 1, 2]


def test_a_footer_in_a_store_is_read_without_the_file(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"s3://{BUCKET}/footer.parquet"
    write_parquet(path, ROWS, ROWS.schema)
    monkeypatch.setattr(storage, "_download", lambda *_: pytest.fail("the whole file was fetched"))
    assert read_footer(path).num_rows == 5000


def test_one_client_serves_all_requests_to_google_storage(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.io.gcp import gcsio

    place, build = f"gs://{BUCKET}/one-client", gcsio.create_storage_client
    built: list[object] = []

    def counted(options: object) -> object:
        built.append(options)
        return build(options)

    monkeypatch.setattr(gcsio, "create_storage_client", counted)
    stores.use()  # new options: what earlier requests built is not theirs
    for number in range(3):
        storage.write_text(f"{place}/{number}", str(number))
        assert storage.read_text(f"{place}/{number}") == str(number)
    assert len(built) == 1


def test_a_file_of_lines_is_read_in_parts_everywhere(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f'{{"question": "What is {n}?", "answer": "{n}"}}\n' for n in range(6000))
    storage.write_text(storage.join(folder, "a.jsonl"), lines)
    [whole] = find_files(InputSpec(path=storage.join(folder, "a.jsonl")), Path())
    monkeypatch.setattr(readers, "PART_BYTES", 70_000)
    parts = split_file(whole)
    assert len(parts) == -(-len(lines) // 70_000)
    read = [[item.row for item in read_examples(file)] for file in (whole, *parts)]
    assert sum(read[1:], []) == read[0]
    assert len(read[0]) == 6000
    assert sum([*read_examples(part)][-1].position for part in parts) <= len(lines)


def test_a_copy_inside_a_store_replaces_what_was_there(stores: Stores) -> None:
    for scheme in ("s3", "gs"):
        one, two = (f"{scheme}://{BUCKET}/copies/{name}" for name in ("one", "two"))
        storage.write_text(one, "new")
        storage.write_text(two, "old")
        assert Path(storage.fetched(two)).read_text("utf-8") == "old"
        storage.copy_files([(one, two)])
        assert Path(storage.fetched(two)).read_text("utf-8") == "new"


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_is_not_there_is_named(stores: Stores, scheme: str) -> None:
    path = f"{scheme}://winnow-no-such-bucket/x.txt"
    with pytest.raises(FileNotFoundError, match=rf"{path}.*bucket"):
        storage.write_text(path, "x")
    with pytest.raises(FileNotFoundError, match=path):
        storage.read_text(path)


def test_missing_credentials_are_named(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stores.use()
    with pytest.raises(PermissionError, match=r"no access: Unable to locate credentials"):
        storage.write_text(f"s3://{BUCKET}/x.txt", "x")
    with pytest.raises(PermissionError, match=r"no access: Unable to locate credentials"):
        storage.exists(f"s3://{BUCKET}/x.txt")
    monkeypatch.undo()
    stores.use()


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "aws"), ("gs", "gcp")])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str
) -> None:
    monkeypatch.setattr(storage_clients, "_installed", lambda _: False)
    with pytest.raises(ValueError, match=rf"pip install 'winnow\[{extra}\]'"):
        storage.exists(f"{scheme}://bucket/x")


def test_an_unknown_scheme_and_a_wildcard_in_an_output_are_refused() -> None:
    with pytest.raises(ValueError, match="knows no filesystem nfs://"):
        storage.exists("nfs://server/x")
    with pytest.raises(ValueError, match="must not hold"):
        storage.resolved("s3://bucket/run-*")
    assert storage.resolved("s3://bucket/run/") == "s3://bucket/run"


class Answer(Exception):  # noqa: N818 - an answer of a store, as its clients raise it
    """An HTTP status."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"status {code}")
        self.code = code


def failing(times: int, error: Exception) -> Callable[[], int]:
    """A call that fails some times and then says how often it was made."""
    calls = iter(range(times + 1))

    def call() -> int:
        number = next(calls)
        if number < times:
            raise error
        return number + 1

    return call


@pytest.mark.parametrize("error", [Answer(500), Answer(503), Answer(429), Answer(None), ConnectionError()])
def test_what_passes_is_tried_again(error: Exception, patient: list[float]) -> None:
    assert retried("s3://b/x", failing(3, error)) == 4
    assert len(patient) == 3
    assert patient == sorted(patient) or max(patient) < 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Answer(403), PermissionError),
        (Answer(404), FileNotFoundError),
        (Answer(400), StoreFailed),
        (ValueError("no such option"), ValueError),
    ],
)
def test_what_does_not_pass_fails_at_once(
    error: Exception, kind: type[Exception], patient: list[float]
) -> None:
    with pytest.raises(kind):
        retried("s3://b/x", failing(1, error))
    assert patient == []


def test_a_store_that_never_answers_fails_in_the_end(patient: list[float]) -> None:
    with pytest.raises(StoreFailed, match=r"s3://b/x: the store does not answer as it should: status 500"):
        retried("s3://b/x", failing(99, Answer(500)))
    assert len(patient) == len(storage_errors.DELAYS)


def test_copies_beyond_the_limit_give_way_unless_just_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FetchCache(limit=10)

    def fetch(path: str) -> None:
        Path(path).write_bytes(b"123456")

    first, second = (cache.get(name, lambda: "v", fetch) for name in ("one", "two"))
    assert Path(first).exists()
    assert Path(second).exists()
    monkeypatch.setattr(fetch_cache, "IN_USE_SECONDS", 0.0)
    third = cache.get("three", lambda: "v", fetch)
    assert [Path(path).exists() for path in (first, second, third)] == [False, False, True]


def test_a_failed_fetch_leaves_no_copy() -> None:
    cache = FetchCache()

    def fail(path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("x", lambda: "v", fail)

    def fetch(path: str) -> None:
        Path(path).write_bytes(b"whole")

    assert Path(cache.get("x", lambda: "v", fetch)).read_bytes() == b"whole"


def test_what_a_killed_process_fetched_is_removed_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    for name in ("dead", "living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    with (tmp_path / "living" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        fetch_cache._remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["living"]
