"""`python -m tests.run_page PAGE` runs the Python blocks of a page in one namespace, in its own process.

Functions that a block calls test_... are called. Prints a JSON object of what each block printed, by line.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from tests.doc_blocks import blocks_of


def run_page(page: Path) -> dict[int, str]:
    """What each Python block of a page prints, by the number of its line."""
    names: dict[str, Any] = vars(sys.modules["__main__"])  # as in a notebook: classes can be pickled
    printed = {}
    for block in blocks_of(page):
        if block.language != "python" or block.not_run:
            continue
        before, output = set(names), io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)  # noqa: S102
            for name in sorted(set(names) - before):
                if name.startswith("test_"):
                    names[name]()
        printed[block.line] = output.getvalue()
    return printed


if __name__ == "__main__":
    said = json.dumps(run_page(Path(sys.argv[1]).resolve()))
    print(f"\n{said}")  # noqa: T201 - what this is for
