"""GOT-D: rows that move the candidates fastest towards a target, by the gradient of optimal transport.

Formula: n candidates x and m target examples y, each of equal mass, cost C_ji = |x_j - y_i|^2 between their
vectors, transport regularised by epsilon times its relative entropy to the product of the masses. Its dual
potentials f, g satisfy

    g_j = -epsilon log mean_i exp((f_i - C_ji) / epsilon)
    f_i = -epsilon log mean_j exp((g_j - C_ji) / epsilon)

and g_j is the derivative of the transport cost by the mass of candidate j. Calibrated, which removes the
constant that potentials are free in: ot_score_j = n / (n - 1) (g_j - mean g). Mass on rows of low score
lowers the cost most: **the lowest are kept**; with `direction: contrast`, for a target to move away from, the
highest. It selects what the candidates lack, not what looks most like the target.

Source: "Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs",
https://arxiv.org/abs/2405.02774, and its notebooks (https://github.com/REDSgnaoh/DV4LLM, with ott-jax). As
the code: squared distance (the theory has the norm itself), regularisation 0.1, momentum 1.3, at most 2,000
iterations. The code's tolerance is 0.1; 0.01 costs one or two iterations more and settles the ranks (ours).
The code subtracts the mean over n - 1 without rescaling, which ranks the same. The paper keeps 10,000 to
150,000 rows of 2 million, embedded by a small model that was tuned on the target, texts cut to equal length.

Ours: any embedding model of the recipe. Potentials are learnt on a sample of the candidates, then one pass
with f frozen scores all. Only f is over-relaxed, and g follows exactly, so that the error of the other
marginal, the sum of its absolute deviations, is all there is. `scale_cost: mean` makes epsilon a fraction of
the mean cost. Ties break by id. Copies of a row share its score and are kept together: dedupe first.

Cost: about 2 n m d operations and 2 n m exponentials an iteration; blocks of n x m, never the whole.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.selectors.base import Budget, Decisions, Vectors, VectorSelector, choose, id_ranks
from pipelines.selectors.id_order import id_order
from pipelines.selectors.vectors import fastest_device, one_thread_each

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.floating]  # float32 in a run; with float64 everything is computed in float64

PARTS = 64  # sums over candidates that are made side by side and added in one order
COSTS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}  # stay in a core's cache (2 MB); fill a GPU (128 MB)
ROWS_AT_ONCE = 16_384  # scored with one copy of their vectors
TOO_SMALL = -80.0  # e to it is nothing beside 1, and still a normal float32, unlike what slows exp down

_LOG = logging.getLogger(__name__)


class GotD(VectorSelector, Budget):
    """The rows with the lowest, or highest, derivative of the cost of transport to the target."""

    name: ClassVar[str] = "got_d"
    source: ClassVar[str] = "GOT-D, arXiv 2405.02774"

    target: str = Field(min_length=1, description="file of examples to move towards, or away from")
    direction: Literal["nearest", "contrast"] = Field(
        default="nearest", description="nearest: move towards the target; contrast: away from it"
    )
    regularisation: float = Field(
        default=0.1, gt=0, description="epsilon, in units of the cost: squared distance of two vectors"
    )
    scale_cost: Literal["none", "mean"] = Field(
        default="none", description="mean: regularisation is a fraction of the mean cost"
    )
    sample: int = Field(
        default=2_000_000, ge=1, description="candidates that the potentials are learnt on, at most"
    )
    max_iterations: int = Field(default=2000, ge=1, description="iterations of Sinkhorn, at most")
    tolerance: float = Field(
        default=0.01, gt=0, lt=2, description="error of the target's masses that counts as converged, 0 to 2"
    )
    momentum: float = Field(default=1.3, gt=0, lt=2, description="over-relaxation; 1 is plain Sinkhorn")
    allow_unconverged: bool = Field(
        default=False, description="whether the run goes on where Sinkhorn has not converged"
    )

    @property
    def target_file(self) -> str:
        """The examples to move towards."""
        return self.target

    def decide_with(self, candidates: pa.Table, vectors: Vectors, seed: int) -> Decisions:
        """Keeps the first rows of the order; writes `ot_score` and `ot_rank`.

        - `ot_score`: change of the transport cost for each unit of mass that goes to the row from all others
          alike; in the unit of the cost, any sign, sums to 0; null where a row was not in play.
        - `ot_rank`: 1 for the first to be kept.

        Raises:
            ValueError: If the target has no vector, or Sinkhorn does not converge.
        """
        if not len(vectors.target):
            raise ValueError(f"got_d: no example of {self.target} has a vector; name a file with text in it")
        in_play = vectors.known & self.can_count(candidates)
        ranks = id_ranks(candidates)
        rows = np.flatnonzero(in_play)
        rows = rows[np.argsort(ranks[rows])]  # sums are made in id order, whatever the order of the table
        g, facts = self._potentials(candidates, rows, vectors, seed)
        score = np.zeros(candidates.num_rows)
        score[rows] = calibrate(g)
        best_first = score[rows] if self.direction == "nearest" else -score[rows]
        order = rows[np.argsort(best_first, kind="stable")]
        place = np.zeros(candidates.num_rows, np.int64)
        place[order] = np.arange(1, len(order) + 1)

        keep = self.keep_first(order, candidates)
        end = "lowest" if self.direction == "nearest" else "highest"
        texts = (
            f"got_d: not among the {end} transport gradients ({facts})",
            f"got_d: among the {end} transport gradients ({facts})",
        )
        reason = choose(texts, keep)
        reason[~in_play] = "got_d: no token count"
        reason[~vectors.known] = "got_d: no vector"
        columns = {"ot_score": pa.array(score, mask=~in_play), "ot_rank": pa.array(place, mask=~in_play)}
        return Decisions(keep, reason, columns)

    def _potentials(
        self, candidates: pa.Table, rows: Int64s, vectors: Vectors, seed: int
    ) -> tuple[Floats, str]:
        """Potential of each of the rows, and how it was found."""
        if not len(rows):
            return np.zeros(0), ""
        drawn = self._sample(candidates, rows, seed)
        whole = np.array_equal(drawn, np.arange(len(vectors.rows)))
        learnt_on = vectors.rows if whole else vectors.rows[drawn]
        cost = mean_cost(learnt_on, vectors.target)
        unit = cost if self.scale_cost == "mean" and cost > 0 else 1.0
        found = learn_potentials(
            learnt_on,
            vectors.target,
            Sinkhorn(self.regularisation * unit, self.tolerance, self.max_iterations, self.momentum),
            fastest_device(),
        )
        share = found.epsilon / cost if cost > 0 else np.inf
        facts = f"epsilon {share:.3g} of the mean cost, error {found.error:.1g} after {found.iterations}"
        self._check(found, share)
        parts = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
        g = [
            candidate_potentials(vectors.rows[part], vectors.target, found, fastest_device())
            for part in parts
        ]
        _LOG.info("got_d: learnt on %s candidates, mean cost %g, %s iterations", len(drawn), cost, facts)
        return np.concatenate(g), f"{facts} iterations"

    def _sample(self, candidates: pa.Table, rows: Int64s, seed: int) -> Int64s:
        """The rows to learn on, in their order: those that a hash of (seed, id) puts first."""
        if len(rows) <= self.sample:
            return rows
        ids = candidates.column("id").take(pa.array(rows)).to_pylist()
        drawn: Int64s = rows[np.sort(np.argsort(id_order(ids, seed), kind="stable")[: self.sample])]
        return drawn

    def _check(self, found: Potentials, share: float) -> None:
        if found.error <= self.tolerance or (self.allow_unconverged and np.isfinite(found.error)):
            return
        raise ValueError(
            f"got_d: Sinkhorn has not converged after {found.iterations} iterations: the masses of the "
            f"target are off by {found.error:.2g}, and {self.tolerance:g} is wanted. regularisation is "
            f"{share:.2g} of the mean cost; raise it (0.05 of the mean cost does for most), raise "
            "max_iterations or tolerance, or set allow_unconverged: true"
        )


@dataclass(frozen=True)
class Sinkhorn:
    """How potentials are learnt.

    Attributes:
        epsilon: Regularisation, in units of the cost, > 0.
        tolerance: Converged when the absolute deviations of the target's masses sum to no more.
        max_iterations: Updates of f at most.
        momentum: Over-relaxation of an update, in (0, 2); 1 is none.
    """

    epsilon: float
    tolerance: float = 0.01
    max_iterations: int = 2000
    momentum: float = 1.3


@dataclass(frozen=True)
class Potentials:
    """The target's side of a transport problem.

    Attributes:
        f: Potential of each target example, float64, shape (m,), in units of the cost.
        epsilon: Regularisation.
        iterations: Updates of f that were made.
        error: Sum of the absolute deviations of the target's masses from 1/m, from 0 to 2.
    """

    f: Floats
    epsilon: float
    iterations: int
    error: float


class _Target:
    """The target's vectors on a device, shifted to a mean of zero, where float32 loses least."""

    def __init__(self, target: Rows, epsilon: float, device: str) -> None:
        import torch

        self._centre = target.mean(axis=0, dtype=np.float64).astype(target.dtype)
        shifted = torch.from_numpy(target - self._centre).to(device)
        self._slopes = shifted.T * (2 / epsilon)  # (d, m)
        self._squares = shifted.double().square().sum(1)  # (m,)
        self._epsilon = epsilon
        self._device = device
        self.rows_at_once = max(64, COSTS_AT_ONCE[device] // max(target.shape))

    def load(self, vectors: Rows) -> torch.Tensor:
        """Vectors of candidates, shifted as the target is, shape (B, d)."""
        import torch

        return torch.from_numpy(vectors - self._centre).to(self._device)

    def logits(self, rows: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """The log of each row's shares, up to a constant of the row, shape (B, m), as precise as the rows.

        It is log(1/m) + (f_i - C_ji + |x_j|^2) / epsilon: the square is added where a potential is wanted.
        """
        import torch

        offsets = (f - self._squares) / self._epsilon - np.log(len(f))
        return torch.addmm(offsets.to(rows.dtype), rows, self._slopes)


def learn_potentials(vectors: Rows, target: Rows, how: Sinkhorn, device: str = "cpu") -> Potentials:
    """The target's potentials, by Sinkhorn's iteration in the log domain.

    Args:
        vectors: Of the candidates, shape (n, d), n > 0; on CUDA they are copied to the device.
        target: Of the target examples, shape (m, d), m > 0.
        how: Regularisation and when to stop.
        device: "cpu" or "cuda". On CPU the result is the same for any number of threads.

    Returns:
        The potentials when the error is within tolerance, or else after the last iteration; see `error`.
    """
    import torch

    side = _Target(target, how.epsilon, device)
    starts = range(0, len(vectors), side.rows_at_once)

    def load(start: int) -> torch.Tensor:
        return side.load(vectors[start : start + side.rows_at_once])

    resident = {} if device == "cpu" else {start: load(start) for start in starts}
    f = torch.zeros(len(target), dtype=torch.float64, device=device)
    empty = torch.full_like(f, -torch.inf)

    def log_masses(part: int) -> torch.Tensor:
        """Log of the sum over a part of the candidates of what each gives to target i, shape (m,)."""
        total = empty
        for start in starts[part::PARTS]:
            rows = resident[start] if resident else load(start)
            shares = side.logits(rows, f)  # (B, m)
            shares -= _log_sum_exp(shares, 1)
            total = torch.logaddexp(total, _log_sum_exp(shares, 0)[0].double())
        return total

    with one_thread_each(device) as pool:
        for iterations in range(how.max_iterations + 1):
            parts = torch.stack(list(pool.map(log_masses, range(min(PARTS, len(starts))))))
            excess = torch.logsumexp(parts, dim=0) - np.log(len(vectors)) + np.log(len(target))
            error = float((excess.exp() - 1).abs().mean())
            # "not >" and not "<=": NaN ends it too
            if not error > how.tolerance or iterations == how.max_iterations:
                break
            f = f - how.momentum * how.epsilon * excess
    return Potentials(f.cpu().numpy(), how.epsilon, iterations, error)


def candidate_potentials(vectors: Rows, target: Rows, found: Potentials, device: str = "cpu") -> Floats:
    """Potentials of candidates, seen before or not, that follow from those of the target.

    Args:
        vectors: Of the candidates, shape (n, d).
        target: Of the target examples, shape (m, d), as the potentials were learnt with.
        found: The target's potentials.
        device: "cpu" or "cuda".

    Returns:
        Derivative of the transport cost by the mass of each candidate, up to one constant, in units of the
        cost, float64, shape (n,). Lower is nearer to what the target lacks.
    """
    import torch

    side = _Target(target, found.epsilon, device)
    f = torch.from_numpy(found.f).to(device)

    g = np.empty(len(vectors))  # one array: small ones between large ones keep a heap from shrinking

    def score(start: int) -> None:
        part = slice(start, start + side.rows_at_once)
        rows = side.load(vectors[part])
        soft_least = _log_sum_exp(side.logits(rows, f), 1)[:, 0].double()
        g[part] = (rows.double().square().sum(1) - found.epsilon * soft_least).cpu().numpy()

    with one_thread_each(device) as pool:
        for _ in pool.map(score, range(0, len(vectors), side.rows_at_once)):
            pass
    return g


def _log_sum_exp(values: torch.Tensor, dim: int) -> torch.Tensor:
    """As torch.logsumexp with keepdim; 10 times faster on CPU where many terms are too small to count."""
    top = values.amax(dim, keepdim=True)
    return (values - top).clamp_(min=TOO_SMALL).exp_().sum(dim, keepdim=True).log_() + top


def calibrate(g: Floats) -> Floats:
    """Each potential less the mean of all others: n / (n - 1) (g_j - mean g).

    Args:
        g: Potentials, shape (n,).

    Returns:
        Shape (n,); sums to 0 and does not change with a constant added to g; 0 for a lone candidate, whose
        mass can come from nowhere else.

    Example:
        >>> calibrate(np.array([0.0, 1.0, 1.0])).round(6).tolist()
        [-1.0, 0.5, 0.5]
    """
    if len(g) < 2:
        return np.zeros(len(g))
    centred: Floats = (g - g.mean()) * (len(g) / (len(g) - 1))
    return centred


def mean_cost(vectors: Rows, target: Rows) -> float:
    """Mean of the squared distances between all candidates and all target examples, without making them.

    Args:
        vectors: Shape (n, d), n > 0.
        target: Shape (m, d), m > 0.

    Example:
        >>> mean_cost(np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [4.0]]))
        6.0
    """
    centre = target.mean(axis=0, dtype=np.float64)  # around it, the mixed terms of the squares cancel out
    parts = (vectors[start : start + ROWS_AT_ONCE] for start in range(0, len(vectors), ROWS_AT_ONCE))
    spread = sum(float(np.square(part - centre).sum()) for part in parts) / len(vectors)
    return spread + float(np.square(target - centre).sum()) / len(target)
