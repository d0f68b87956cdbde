"""Rendering of the report's pages: one self-contained file each, that lets nothing else run or be fetched.

Style and scripts stand in the page and are named by their hashes in its Content-Security-Policy, so a text of
the data that slipped through as markup could neither run nor load anything. Data for the scripts is JSON in
an element that browsers do not execute; `<` is escaped in it, so nothing inside can end that element.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.charts import share_bar, waterfall_bar
from pipelines.report_examples import format_number, visible

HERE = Path(__file__).parent
SCRIPTS = ("report_tables.js", "report_plane.js", "report_scores.js")


def render(template: str, scripts: Sequence[str], data: Mapping[str, Any], **values: Any) -> str:  # noqa: ANN401 - what the template names
    """A whole page.

    Args:
        template: Name of a template beside this file.
        scripts: Names of the scripts beside this file, in the order in which they run.
        data: For the scripts; anything JSON holds, without NaN.
        values: For the template.
    """
    style = (HERE / "report.css").read_text("utf-8")
    script = '"use strict";\n' + "\n".join((HERE / name).read_text("utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    code = {"style": Markup(style), "script": Markup(script)}  # noqa: S704 - files of this package
    return _environment().get_template(template).render(
        policy=policy, data=embedded(data), **code, **values
    )  # fmt: skip


def embedded(data: Mapping[str, Any]) -> Markup:
    r"""JSON that can stand inside a script element, whatever its texts are.

    Example:
        >>> print(embedded({"text": "</script>"}))
        {"text":"\u003c/script>"}
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - without "<" no tag and no comment can begin


def format_share(part: float, whole: float) -> str:
    """A percentage with one decimal; a dash of nothing."""
    return f"{100 * part / whole:.1f}\u00a0%" if whole else "–"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "commas": lambda value: "–" if value is None else f"{value:,}",
        "number": format_number,
        "visible": visible,
    }
    environment.globals |= {"share": format_share, "share_bar": share_bar, "waterfall_bar": waterfall_bar}
    return environment
