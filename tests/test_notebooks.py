"""The notebooks run from top to bottom and print what is committed.

`python -m tests.test_notebooks` runs them and writes what they print into the files.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 600  # of a cell, on a busy machine
MOST_BYTES = 100_000
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def executed(path: Path, folder: Path) -> Any:  # noqa: ANN401 - nbformat ships no types
    """The notebook after it ran in a folder that looks like `notebooks/` of a checkout."""
    (folder / "quickstart").symlink_to(ROOT / "quickstart")
    (folder / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder / "notebooks")}},
    )
    # tqdm misses the progress bars of ipywidgets, which are nothing of ours
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"})
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    return notebook


def outputs_of(notebook: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - nbformat ships no types
    """The kind and text of every output, in order."""
    found = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                found.append((output["name"], output["text"]))
            else:
                found += sorted(output["data"].items())
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_committed(path: Path, tmp_path: Path) -> None:
    committed, now = (outputs_of(nbformat.read(path, as_version=4)), outputs_of(executed(path, tmp_path)))
    assert [kind for kind, _ in now] == [kind for kind, _ in committed]
    for (kind, text), (_, printed) in zip(committed, now, strict=True):
        assert _NUMBER.sub("N", printed) == _NUMBER.sub("N", text)
        assert numbers(printed) == pytest.approx(numbers(text), rel=0.02, abs=0.02), kind


def numbers(text: str) -> list[float]:
    """The numbers of a text; another processor may round the last digit of one otherwise."""
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_is_small_whole_and_says_nothing_of_where_it_ran(path: Path) -> None:
    text = path.read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) < MOST_BYTES
    assert notebook["metadata"] == METADATA
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {kind for kind, _ in outputs_of(notebook)}
    assert kinds <= {"stdout", "text/plain", "text/html"}  # no warnings, no pictures
    for _, output in outputs_of(notebook):
        assert not re.search(r"/(home|tmp|root|work|Users)/|0x[0-9a-f]{6}", output)


def test_only_the_notebook_on_scorers_defines_a_function() -> None:
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4)["cells"]
        code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
        defines = re.search(r"^\s*(def|class) |\blambda\b", code, re.M)
        assert bool(defines) == (path.stem == "05_write_your_own_scorer"), path


def renew() -> None:
    """Runs every notebook and writes it with what it printed."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    renew()
