"""Brings what the cluster test runs on into a folder: Flink with Beam's runner, and Prism.

    python -m tests.cluster.fetch FOLDER

Jars come from Maven Central through mvn (105 MB), Prism is built by Go from Beam's module. What is there is
not fetched again. Any failure is an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Engines:
    """Where the engines lie.

    Attributes:
        jar: Flink and Beam's runner for it, in one file.
        prism: Prism's executable.
    """

    jar: Path
    prism: Path

    @classmethod
    def under(cls, folder: Path) -> Engines:
        """Their places in a folder; another list of jars gets another place."""
        version = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
        return cls(folder / f"flink-{version}.jar", folder / PRISM.rsplit("@", 1)[-1] / "prism")


def fetch(folder: Path) -> Engines:
    """Fetches what is not there yet.

    Raises:
        FileNotFoundError: If mvn or go is not installed.
        subprocess.CalledProcessError: If one of them failed.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    engines = Engines.under(folder)
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(_fetch_jar, engines.jar), pool.submit(_build_prism, engines.prism)]:
            job.result()
    return engines


def _fetch_jar(place: Path) -> None:
    if place.exists():
        return
    arriving = place.with_suffix(".tmp")
    shutil.rmtree(arriving, ignore_errors=True)
    _call(
        [
            "mvn", "--batch-mode", "--quiet", "--file", str(POM),
            "-Dmaven.artifact.threads=16", "-DincludeScope=runtime", f"-DoutputDirectory={arriving}",
            "dependency:copy-dependencies",
        ]
    )  # fmt: skip
    _merge(sorted(arriving.glob("*.jar")), arriving / "merged")
    (arriving / "merged").rename(place)
    shutil.rmtree(arriving)


def _merge(jars: list[Path], merged: Path) -> None:
    """Makes one jar of many, as Beam's own job server is one.

    The job server sends its class path to the cluster with every job, and a hundred files take it 12 s each
    time, one of the same size 1 s.
    """
    services: dict[str, list[bytes]] = {}
    seen: set[str] = set()
    with zipfile.ZipFile(merged, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for jar in jars:
            with zipfile.ZipFile(jar) as archive:
                for name in archive.namelist():
                    if name.startswith("META-INF/services/") and not name.endswith("/"):
                        services.setdefault(name, []).append(archive.read(name))
                    elif name not in seen and not name.endswith(("/", ".SF", ".RSA", "MANIFEST.MF")):
                        seen.add(name)
                        out.writestr(name, archive.read(name))
        for name, lists in services.items():
            out.writestr(name, b"\n".join(lists))


def _build_prism(place: Path) -> None:
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        _call(["go", "install", PRISM], {"GOBIN": str(place.parent)})


def _call(command: list[str], env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, timeout=LIMIT_SECONDS, env={**os.environ, **(env or {})})


if __name__ == "__main__":
    found = fetch(Path(sys.argv[1]))
    sys.stdout.write(f"{found.jar}\n{found.prism}\n")
