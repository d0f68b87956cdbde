"""From measured arms to differences, intervals and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.evaluate.arms import Arm, budgets
from pipelines.evaluate.held_out import HeldOut
from pipelines.evaluate.intervals import Difference, difference
from pipelines.evaluate.run_arms import START

Results = dict[str, Any]
Key = tuple[str, str]
Floats = npt.NDArray[np.float64]


def summarise(
    arms: Sequence[Arm], results: Sequence[Results], held_out: HeldOut, seeds: int
) -> dict[str, Any]:
    """What the arms came to, and what the selected ones differ by from the others.

    Args:
        arms: The arms.
        results: Of the model as it is, and then of each arm, from `measure_arm`.
        held_out: What they were measured on.
        seeds: How many arms there are of each set.

    Returns:
        arms: for each set its rows, trained tokens, epochs, held-out loss (nats per response token; mean and
        by seed), accuracy or null, and curve; comparisons: for each selection and each other set the
        difference of the losses, its interval, the verdict and a sentence, and the same of the accuracies.
    """
    by_set: dict[Key, list[tuple[Arm, Results]]] = {}
    for arm, result in zip(arms, results[1:], strict=True):
        by_set.setdefault((arm.name, arm.run), []).append((arm, result))
    tokens = held_out.rows.trained.astype(np.float64)
    lines = [_line(START, "", None, [results[0]], tokens)]
    shared = len({run for name, run in by_set if name == "random"}) == 1
    for (name, run), own in by_set.items():
        label = (
            own[0][0].label if name in ("selected", "everything") or shared else f"{name}, as many as {run}"
        )
        lines.append(_line(label, name, own[0][0], [result for _, result in own], tokens))
    return {"arms": lines, "comparisons": _comparisons(by_set, held_out, tokens, seeds)}


def _line(
    label: str, name: str, arm: Arm | None, results: Sequence[Results], tokens: Floats
) -> dict[str, Any]:
    losses = [float(np.sum(result["losses"]) / tokens.sum()) for result in results]
    right = [_right(result) for result in results]
    curve = np.array([result["curve"] for result in results])
    return {
        "label": label,
        "set": name,
        "rows": arm.rows.table.num_rows if arm else 0,
        "trained_tokens": int(arm.rows.trained.sum()) if arm else 0,
        "epochs": results[0]["epochs"],
        "loss": float(np.mean(losses)),
        "loss_by_seed": losses,
        "accuracy": None if right[0] is None else float(np.nanmean(np.array(right, np.float64))),
        "curve": curve.mean(axis=0).tolist() if curve.size else [],
        "seconds": round(sum(result["seconds"] for result in results), 1),
    }


def _right(result: Results) -> Floats | None:
    if result["right"] is None:
        return None
    return np.array([np.nan if value is None else value for value in result["right"]], np.float64)


def _comparisons(
    by_set: dict[Key, list[tuple[Arm, Results]]], held_out: HeldOut, tokens: Floats, seeds: int
) -> list[dict[str, Any]]:
    selected = {run: own for (name, run), own in by_set.items() if name == "selected"}
    owners = budgets({run: int(own[0][0].rows.trained.sum()) for run, own in selected.items()})
    found = []
    for run, own in selected.items():
        for key in (("random", owners[run]), ("longest", owners[run]), ("everything", "")):
            first, second = ([result for _, result in arms] for arms in (own, by_set[key]))
            found.append(
                {"run": run, "against": key[0]} | compare(run, key[0], first, second, held_out, tokens)
            )
        for other in selected if len(selected) > 1 else ():
            if list(selected).index(other) > list(selected).index(run):
                first, second = ([result for _, result in selected[name]] for name in (run, other))
                found.append(
                    {"run": run, "against": other} | compare(run, other, first, second, held_out, tokens)
                )
    return found


def compare(
    run: str,
    against: str,
    first: Sequence[Results],
    second: Sequence[Results],
    held_out: HeldOut,
    tokens: Floats,
) -> dict[str, Any]:
    """The difference of two sets in loss and, where answers were checked, in accuracy.

    Returns:
        loss and accuracy (or None): difference, low, high, verdict; sentence.
    """
    losses = [np.array([result["losses"] for result in results]) for results in (first, second)]
    loss = difference(losses[0], losses[1], tokens, held_out.prompt)
    sentence = _sentence(run, against, loss, "lower", len(first))
    accuracy = None
    if first[0]["right"] is not None:
        right = [np.array([_right(result) for result in results], np.float64) for results in (first, second)]
        asked = np.isfinite(right[0][0])
        found = difference(
            right[0][:, asked], right[1][:, asked], np.ones(asked.sum()), held_out.prompt[asked]
        )
        accuracy = _as_dict(found, "higher")
        sentence += " " + _accuracy_sentence(found)
    return {"loss": _as_dict(loss, "lower"), "accuracy": accuracy, "sentence": sentence}


def _as_dict(found: Difference, better: Literal["lower", "higher"]) -> dict[str, Any]:
    return {"difference": found.value, "low": found.low, "high": found.high, "verdict": found.verdict(better)}


_VERDICTS = {
    "helps": "{run} helps against {against}: its held-out loss is lower",
    "does not help": "{run} does not help against {against}: its held-out loss is higher",
    "cannot tell": "{run} against {against}: cannot tell, the interval of the difference holds 0",
}


def _sentence(
    run: str, against: str, found: Difference, better: Literal["lower", "higher"], seeds: int
) -> str:
    text = _VERDICTS[found.verdict(better)].format(run=run, against=against)
    of = "" if seeds > 1 else ", for one seed: how much seeds matter is not known"
    interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
    return f"{text} ({found.value:+.4f} nats per token, {interval}{of})."


def _accuracy_sentence(found: Difference) -> str:
    verdict = found.verdict("higher")
    said = {"helps": "more answers are right", "does not help": "fewer answers are right"}
    text = said.get(verdict, "of right answers one cannot tell")
    points = (100 * value for value in (found.value, found.low, found.high))
    return "Accuracy: {}, {:+.1f} points ({:+.1f} to {:+.1f}).".format(text, *points)
