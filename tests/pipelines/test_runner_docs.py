from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipelines.runner import choose_runner

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
COMMANDS = [
    shlex.split(command.replace("\\\n", " "))
    for command in re.findall(r"^    (winnow run .*(?:(?<=\\)\n.*)*)", PAGE.read_text("utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--" in c and c[-1] != "--runner=..."])
def test_the_beam_options_on_the_page_are_ones_that_winnow_takes(command: list[str]) -> None:
    args = command[command.index("--") + 1 :]
    assert args
    assert choose_runner(1, args).runner == args[0].removeprefix("--runner=")


def test_the_page_shows_every_kind_of_cluster() -> None:
    runners = {option.removeprefix("--runner=") for c in COMMANDS for option in c if "--runner=" in option}
    assert runners == {"...", "PortableRunner", "FlinkRunner", "DataflowRunner"}
