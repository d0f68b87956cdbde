"""Three rooms, one direction: connectors ← scorers ← pipelines."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "connectors": {"connectors"},
    "scorers": {"connectors", "scorers"},
    "pipelines": {"connectors", "scorers", "pipelines"},
}


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_before_it(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        wrong = _imported(path) & (set(MAY_IMPORT) | {"tests", "quickstart", "benchmarks"}) - MAY_IMPORT[room]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_file_says_what_it_is_in_its_first_line() -> None:
    for room in MAY_IMPORT:
        for path in (ROOT / room).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path
