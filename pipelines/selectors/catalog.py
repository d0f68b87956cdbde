"""Every selector by its published name. A new one is a file, a line here and a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from pipelines.selectors.base import Selector
from pipelines.selectors.d4 import D4
from pipelines.selectors.dart import Dart
from pipelines.selectors.deita_diversity import DeitaDiversity
from pipelines.selectors.dft import Dft
from pipelines.selectors.donod import Donod
from pipelines.selectors.facility_location import FacilityLocation
from pipelines.selectors.fait import Fait
from pipelines.selectors.glow import Glow
from pipelines.selectors.got_d import GotD
from pipelines.selectors.grape import Grape
from pipelines.selectors.k_center import KCenter
from pipelines.selectors.kshot import Kshot
from pipelines.selectors.mixture import Mixture
from pipelines.selectors.pass_rate import PassRate
from pipelines.selectors.perplexity_band import PerplexityBand
from pipelines.selectors.q_tuning import QTuning
from pipelines.selectors.random_sample import RandomSample
from pipelines.selectors.rho1 import Rho1
from pipelines.selectors.semdedup import SemDeDup
from pipelines.selectors.source_fit import SourceFit
from pipelines.selectors.stratified import Stratified
from pipelines.selectors.threshold import Threshold
from pipelines.selectors.top_k import TopK
from pipelines.selectors.verdict import Verdict

SELECTORS: dict[str, type[Selector]] = {
    selector.name: selector
    for selector in (
        Verdict,
        QTuning,
        Rho1,
        Dft,
        Fait,
        Glow,
        Dart,
        PassRate,
        Grape,
        SourceFit,
        Donod,
        GotD,
        Kshot,
        DeitaDiversity,
        KCenter,
        FacilityLocation,
        SemDeDup,
        D4,
        PerplexityBand,
        TopK,
        Mixture,
        Stratified,
        Threshold,
        RandomSample,
    )
}


def parse_selector(step: object) -> Selector:
    """The selector of one step of a recipe's `select` list.

    Args:
        step: A mapping of one selector's name to its options, as YAML gives it.

    Raises:
        ValueError: If the step has another shape, an unknown name or option (the nearest known one is
            named), or a value that the option does not take.

    Example:
        >>> parse_selector({"top_k": {"column": "ifd_ppl", "order": "highest", "keep": 0.1}}).reads
        ('ifd_ppl',)
    """
    if not isinstance(step, Mapping) or len(step) != 1:
        raise ValueError(f"select: a step is one selector with its options, {{top_k: {{...}}}}; got {step!r}")
    name, options = next(iter(step.items()))
    if name not in SELECTORS:
        raise ValueError(f"select: there is no selector {name!r}{_nearest(str(name), SELECTORS)}")
    if not isinstance(options, Mapping | None):
        raise ValueError(f"select.{name}: options are a mapping of names to values; got {options!r}")
    selector = SELECTORS[name]
    try:
        return selector(**(options or {}))
    except ValidationError as error:
        faults = (_fault(selector, name, fault) for fault in error.errors(include_url=False))
        raise ValueError("; ".join(faults)) from error


def _fault(selector: type[Selector], name: str, fault: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    where = ".".join(["select", name, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return f"{where}: there is no such option{_nearest(str(fault['loc'][-1]), selector.model_fields)}"
    if fault["type"] == "missing":
        return f"{where}: this option is required"
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] == "value_error" else f" (got {fault['input']!r})"
    return f"{where}: {message}{got}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f" (there are {', '.join(names)})"
