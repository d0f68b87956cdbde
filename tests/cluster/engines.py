"""Engines that run on other machines in earnest, started here as processes of their own.

Flink: a JobManager, TaskManagers and Beam's job server, each a process. Prism: one process. Python workers
are started by the engine, as processes too. Everything listens on 127.0.0.1 and free ports, and ends with the
`Processes` block, whatever happens in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0
SLOTS = 2  # of a TaskManager; so many Python workers' bundles run side by side in it

# Of Flink's own start scripts, which its distribution for Python leaves out.
_OPEN = (
    "lang net io nio lang.reflect text time util util.concurrent util.concurrent.atomic util.concurrent.locks"
)
_JAVA = [
    "-XX:TieredStopAtLevel=1",  # they live for two minutes: compiling twice costs more than it gives
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPEN.split()),
]


class EngineFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """An engine did not start, or ended by itself."""


@dataclass
class Processes:
    """Processes that end with the block, together with their children.

    Attributes:
        folder: Where each writes NAME.log.
    """

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        """Starts a process in a group of its own; its output goes to a file."""
        # The kernel ends it if this very process is killed and cannot clean up.
        watched = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                [*watched, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
            )

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.folder / f"{name}.log"

    def wait_until(self, what: str, ready: Callable[[], bool]) -> None:
        """Waits until `ready`.

        Raises:
            EngineFailed: If a process ended, or time is up; with the end of its log.
        """
        until = time.monotonic() + START_SECONDS
        while not ready():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise EngineFailed(f"{name} ended with {process.returncode}:\n{self._tail(name)}")
            if time.monotonic() > until:
                logs = "\n".join(f"{name}:\n{self._tail(name)}" for name in self.running)
                raise EngineFailed(f"{what} not ready after {START_SECONDS:.0f} s\n{logs}")
            time.sleep(0.2)

    def _tail(self, name: str, lines: int = 15) -> str:
        return "\n".join(self.log(name).read_text("utf-8", "replace").splitlines()[-lines:])

    def __enter__(self) -> Processes:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
            for process in self.running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            until = time.monotonic() + seconds
            for process in self.running.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def worker_options(folder: Path) -> list[str]:
    """Beam options that let the engine start this environment's Python for its workers."""
    script = folder / "worker.sh"
    script.write_text(f'#!/bin/sh\ncd {REPOSITORY} && exec {sys.executable} -m pipelines.worker "$@"\n')
    script.chmod(0o755)
    return ["--environment_type=PROCESS", f"--environment_config={json.dumps({'command': str(script)})}"]


def start_prism(processes: Processes, binary: Path) -> list[str]:
    """Starts Prism; gives the Beam options that send pipelines to it."""
    port = free_port()
    processes.start("prism", [str(binary), f"--job_port={port}", "--serve_http=false", "--log_level=warn"])
    processes.wait_until("prism", lambda: listens(port))
    return ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", *worker_options(processes.folder)]


def start_flink(processes: Processes, jar: Path, task_managers: int = 2) -> list[str]:
    """Starts a Flink cluster and Beam's job server for it; gives the Beam options that send pipelines there.

    Args:
        processes: Owns the processes.
        jar: Flink and Beam's runner for it.
        task_managers: How many, each with `SLOTS` slots.
    """
    rest, job = free_port(), free_port()
    _write_flink_configuration(processes.folder, rest, parallelism=SLOTS * task_managers)
    java = ["java", *_JAVA, "-cp", str(jar)]
    flink, conf = "org.apache.flink.runtime", ["--configDir", str(processes.folder)]
    processes.start(
        "jobmanager",
        [*java, "-Xmx512m", f"{flink}.entrypoint.StandaloneSessionClusterEntrypoint", *conf],
    )
    for number in range(task_managers):
        processes.start(
            f"taskmanager-{number}",
            [*java, "-Xmx768m", f"{flink}.taskexecutor.TaskManagerRunner", *conf],
        )
    processes.start("job-server", _job_server(jar, processes.folder, rest, job))
    processes.wait_until("Flink", lambda: _task_managers(rest) == task_managers and listens(job))
    return [
        "--runner=PortableRunner",
        f"--job_endpoint=127.0.0.1:{job}",
        f"--parallelism={SLOTS * task_managers}",
        *worker_options(processes.folder),
    ]


def _job_server(jar: Path, folder: Path, rest: int, job: int) -> list[str]:
    return [
        "java",
        *_JAVA,
        "-Xmx512m",
        "-cp",
        str(jar),
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        f"--flink-master=127.0.0.1:{rest}",
        f"--flink-conf-dir={folder}",
        "--job-host=127.0.0.1",
        f"--job-port={job}",
        f"--artifact-port={free_port()}",
        f"--expansion-port={free_port()}",
        f"--artifacts-dir={folder / 'artifacts'}",
    ]


def _write_flink_configuration(folder: Path, rest: int, parallelism: int) -> None:
    memory = {  # every part is named, as the start script that works them out is not there
        "task.heap.size": "512m",
        "task.off-heap.size": "0m",
        "managed.size": "64m",
        "network.min": "64m",
        "network.max": "64m",
        "framework.heap.size": "128m",
        "framework.off-heap.size": "128m",
        "jvm-metaspace.size": "512m",
        "jvm-overhead.min": "192m",
        "jvm-overhead.max": "192m",
    }
    settings = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": free_port(),
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.memory.process.size": "1g",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": SLOTS,
        "taskmanager.cpu.cores": float(SLOTS),
        **{f"taskmanager.memory.{part}": size for part, size in memory.items()},
        "parallelism.default": parallelism,
        "classloader.resolve-order": "parent-first",  # Beam is on the class path of all processes
        "io.tmp.dirs": str(folder),
        "blob.storage.directory": str(folder / "blobs"),
    }
    lines = [f"{key}: {value}" for key, value in settings.items()]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")


def _task_managers(rest: int) -> int:
    if not listens(rest):
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/overview", timeout=5) as answer:  # noqa: S310 - ours
            return int(json.load(answer)["taskmanagers"])
    except OSError:  # it listens, but cannot answer yet
        return 0
