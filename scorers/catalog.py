"""Every scorer by its published name. A new one is a file, a line here and a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal

from scorers import (
    dft,
    donod,
    el2n,
    entropy,
    glow,
    ifd,
    loss,
    mistake_log,
    muscle,
    novelty,
    rho1,
    scalediff,
    top1_agreement,
    whole_text,
)
from scorers.base import ROLES, Column, Need, Output, Role, Scorer
from scorers.own import checked, installed

SCORERS: dict[str, Scorer] = {
    module.SCORER.name: module.SCORER
    for module in (
        loss,
        entropy,
        top1_agreement,
        ifd,
        whole_text,
        el2n,
        donod,
        dft,
        scalediff,
        rho1,
        novelty,
        glow,
        muscle,
        mistake_log,
    )
}

BUILT_IN = tuple(SCORERS)


def register(scorer: Scorer) -> Scorer:
    """Adds a scorer to this program: `score` and recipes that run in it know its name and its columns.

    One of the same name that was added before is replaced. Worker processes do not know it; for them, offer
    it as the entry point of an installed package (scorers/own.py).

    Args:
        scorer: Its name and columns must be new. Give it a `version` if it calls functions of other files:
            the default is a hash of the file, or the notebook cell, of its function `score`.

    Returns:
        The scorer as it is known.

    Raises:
        ValueError: If its name or a column is taken, or it needs what no model gives.
    """
    others = {name: other for name, other in SCORERS.items() if name != scorer.name or name in BUILT_IN}
    known = checked(scorer, others)
    SCORERS[known.name] = known
    return known


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """The versions of those of the scorers that do not come with winnow."""
    return {scorer.name: scorer.version for scorer in resolve(names) if scorer.version}


def resolve(names: Iterable[str]) -> tuple[Scorer, ...]:
    """The scorers of these names, each once, in the catalog's order whatever the order of the names.

    Raises:
        ValueError: If a name is not in the catalog; the message names the nearest that is.
    """
    wanted = set(names)
    for name in sorted(wanted - SCORERS.keys()):
        near = get_close_matches(name, SCORERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "take one of these"
        raise ValueError(f"score: there is no scorer {name!r}; {hint} Scorers: {', '.join(SCORERS)}")
    return tuple(scorer for name, scorer in SCORERS.items() if name in wanted)


def columns_of(names: Iterable[str]) -> tuple[Column, ...]:
    """The score columns that these scorers write, in the order they are stored.

    Example:
        >>> [column.name for column in columns_of(["ifd", "loss"])]
        ['loss', 'perplexity', 'direct_loss', 'ifd_loss', 'ifd_ppl']
    """
    return tuple(column for scorer in resolve(names) for column in scorer.columns)


def plan(
    names: Iterable[str], store_tokens: bool = False, store_outputs: Iterable[Output] = ()
) -> tuple[Need, ...]:
    """The union of what these scorers need of the target's pass, sorted; each view in it is one pass.

    Args:
        names: Names of scorers.
        store_tokens: Whether the loss of each response token is stored too.
        store_outputs: Outputs of the conditional view that are stored as they are.

    Example:
        >>> [f"{need.view} {need.output}" for need in plan(["ifd", "loss", "entropy"])]
        ['conditional entropy', 'conditional logprob', 'direct logprob']
    """
    needs = {need for scorer in resolve(in_one_pass(names)) for need in scorer.needs}
    needs |= {Need("conditional", output) for output in store_outputs}
    if store_tokens:
        needs.add(loss.RESPONSE_LOGPROBS)
    return tuple(sorted(needs))


def in_one_pass(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the scorers that read the target model alone, computed as it runs."""
    return tuple(scorer.name for scorer in resolve(names) if not scorer.roles)


def comparing(names: Iterable[str]) -> tuple[Scorer, ...]:
    """Those of the scorers that read another model too, computed from what both stored."""
    return tuple(scorer for scorer in resolve(names) if scorer.roles)


def stored_for(names: Iterable[str], model: Role | Literal[""]) -> tuple[Output, ...]:
    """The outputs of a model that comparing scorers read, sorted; "" is the target."""
    needs = (need for scorer in comparing(names) for need in scorer.needs)
    return tuple(sorted({need.output for need in needs if need.model == model}))


def beside_losses(names: Iterable[str], model: Role | Literal[""]) -> tuple[Output, ...]:
    """What comparing scorers read of a model beside its log-probabilities, which are stored as losses."""
    return tuple(output for output in stored_for(names, model) if output != "logprob")


def check_roles(names: Iterable[str], given: Iterable[str]) -> None:
    """Checks that exactly the models are given that scorers compare the target with.

    Args:
        names: Names of scorers.
        given: Roles of the models that there are.

    Raises:
        ValueError: If one is missing, or nothing reads it.
    """
    given = list(given)
    read = {role: scorer.name for scorer in comparing(names) for role in scorer.roles}
    for role, name in read.items():
        if role not in given:
            raise ValueError(
                f"score: {name} compares the target with its {role} ({ROLES[role]}); "
                f"name it: `models: {{{role}: {{path: ...}}}}`"
            )
    for other in given:
        if other not in read:
            raise ValueError(f"models.{other}: no scorer in `score:` reads it; remove it")


def views_of(needs: Sequence[Need]) -> tuple[str, ...]:
    """The views among these needs: the passes that the model makes over every row."""
    return tuple(sorted({need.view for need in needs}))


for _offered in installed():
    register(_offered)
