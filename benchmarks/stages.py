"""Rows/s of every stage and peak memory of a whole run, as a Markdown table.

    python benchmarks/stages.py RECIPE.yaml [options of winnow run: --limit N --workers N --set KEY=VALUE]

Runs the recipe from nothing in a fresh process, in a temporary folder. Use `taskset -c 0,1` for two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Runs the recipe and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipelines.cli", "run", arguments.recipe, "--output", folder]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads((Path(folder) / "manifest.json").read_text("utf-8"))
    print(f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    print("| stage | rows | seconds | rows/s | tokens/s | padding |\n|---|--:|--:|--:|--:|--:|")
    for name, stage in manifest["stages"].items():
        tokens = f"{stage['tokens_per_s']:,.0f}" if stage.get("tokens_per_s") else ""
        padded = stage.get("padded_tokens")
        padding = f"{100 * (padded / manifest['tokens']['scored'] - 1):.1f} %" if padded else ""
        numbers = f"{stage['rows']:,} | {stage['seconds']:.1f} | {stage['rows_per_s']:,.0f}"
        print(f"| {name} | {numbers} | {tokens} | {padding} |")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nwhole run {manifest['seconds']:.1f} s; peak memory of the largest process {peak:,.0f} MB")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
