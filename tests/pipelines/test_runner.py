from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import apache_beam as beam
import grpc
import pytest

from pipelines.interrupts import DeadWorker
from pipelines.run_log import Context
from pipelines.runner import RunnerChoice, choose_runner, run_pipeline


def test_the_default_runner_is_named_and_runs_in_this_process() -> None:
    options = choose_runner(1, []).options(parallel=True).get_all_options()
    assert (options["runner"], options["direct_running_mode"]) == ("FnApiRunner", "in_memory")


def test_workers_mean_processes_and_only_where_there_is_parallel_work() -> None:
    choice = choose_runner(3, [])
    parallel = choice.options(parallel=True).get_all_options()
    single = choice.options(parallel=False).get_all_options()
    assert (parallel["direct_running_mode"], parallel["direct_num_workers"]) == ("multi_processing", 3)
    assert (single["direct_running_mode"], single["direct_num_workers"]) == ("in_memory", 1)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--direct_running_mode=multi_threading"], "loses rows"),
        (["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"], "drops outputs"),
        (["--runner=BundleBasedDirectRunner"], "batched DoFns"),
        (["--runner=PrismRunner"], "prism_location"),
        (["--job_endpiont=localhost:8099"], "no option '--job_endpiont=localhost:8099'"),
    ],
)
def test_what_loses_rows_or_is_unknown_is_refused_with_the_reason(args: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        choose_runner(1, args)


def test_the_bare_direct_runner_means_the_local_default() -> None:
    choice = choose_runner(1, ["--runner=DirectRunner", "--direct_num_workers", "2"])
    assert choice == RunnerChoice(runner="FnApiRunner", workers=2)


def test_a_portable_runner_gets_its_own_options_and_no_workers() -> None:
    choice = choose_runner(1, ["--runner=PortableRunner", "--job_endpoint=localhost:1"])
    assert (choice.runner, choice.flags) == ("PortableRunner", ("--job_endpoint=localhost:1",))
    assert choice.job_endpoint == "localhost:1"
    with pytest.raises(ValueError, match="--workers is for the local runner"):
        choose_runner(2, ["--runner=PortableRunner"])


class _Die(beam.DoFn):
    def process(self, name: str) -> None:
        if name == "victim":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)


def test_a_killed_worker_ends_the_run_instead_of_hanging_it() -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create(["a", "victim", "b", "c"]) | beam.ParDo(_Die())

    began = time.monotonic()
    with pytest.raises(DeadWorker, match="a worker process ended"):
        run_pipeline(choose_runner(2, []), build, parallel=True)
    assert time.monotonic() - began < 60  # Beam alone would wait for ever


class _Note(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, name: str) -> None:
        (Path(self.folder) / name).write_text(str(os.getpid()))


def test_worker_processes_do_the_work(tmp_path: Path) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create(["a", "b", "c", "d"]) | beam.ParDo(_Note(str(tmp_path)))

    run_pipeline(choose_runner(2, []), build, parallel=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "d"}
    assert str(os.getpid()) not in {path.read_text() for path in tmp_path.iterdir()}


def test_a_connection_that_ends_after_the_pipeline_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_in_thread(error: Exception) -> None:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    heard: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    for _ in range(2):
        run_pipeline(choose_runner(1, []), _create, parallel=False)
    fail_in_thread(grpc.RpcError("the worker has gone"))
    fail_in_thread(ValueError("ours"))
    assert [str(args.exc_value) for args in heard] == ["ours"]


def _create(pipeline: beam.Pipeline) -> None:
    _ = pipeline | beam.Create(["a"])


def test_a_job_service_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, but nobody listens
        choice = choose_runner(1, ["--runner=PortableRunner", f"--job_endpoint={endpoint}"])
        with pytest.raises(ConnectionError, match=f"--job_endpoint={endpoint}: nothing answers"):
            run_pipeline(choice, _create, parallel=True)


def test_a_stopped_command_cancels_its_job_on_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    class Job:
        cancelled = False

        def wait_until_finish(self) -> None:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            self.cancelled = True

    job = Job()
    monkeypatch.setattr(beam.Pipeline, "run", lambda _: job)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(choose_runner(1, ["--runner=PortableRunner"]), _create, parallel=True)
    assert job.cancelled


def test_only_a_model_on_a_cluster_s_gpu_asks_for_an_accelerator_and_memory() -> None:
    args = ["--runner=DataflowRunner", "--resource_hints=accelerator=type:nvidia-h100;count:1"]
    choice = choose_runner(1, [*args, "--resource_hint", "cpu_count=8"])
    assert choice.model_hints("cuda") == {"accelerator": "type:nvidia-h100;count:1", "min_ram": "16GB"}
    assert choice.model_hints("cpu") == {}
    assert choose_runner(1, []).model_hints("cuda") == {}
    assert choice.options(parallel=True).get_all_options()["resource_hints"] == ["cpu_count=8"]


def test_a_job_on_a_cluster_has_the_runs_id_in_its_name_unless_it_is_given_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.runner.CONTEXT", Context(run_id="20261121t131934-29faa80c", stage="score"))
    on_cluster = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]
    options = choose_runner(1, on_cluster).options(parallel=True).get_all_options()
    assert options["job_name"] == "winnow-score-20261121t131934-29faa80c"
    named = choose_runner(1, [*on_cluster, "--job_name=mine"]).options(parallel=True).get_all_options()
    assert named["job_name"] == "mine"
