"""One forward call: token ids in, a few numbers per response token out.

Only the hidden states that predict response tokens go through the output layer, in chunks, so no tensor
of shape (batch, time, vocabulary) ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scorers.base import TOKEN_OUTPUTS, Output
from scorers.models.gradient_norm import gradient_norms
from scorers.models.layout import Layout, attention_mask, lay_out
from scorers.models.outputs import Logits, reduce_logits
from scorers.models.tokenising import TokenSequence

# What a row can make a model raise: its code is not ours. Anything else, such as a TypeError, is a fault of
# the program, whatever the row.
ROW_ERRORS = (RuntimeError, ValueError, LookupError, ArithmeticError, AssertionError, MemoryError)


@dataclass(frozen=True, slots=True)
class RowFailure:
    """A row on which the model failed even alone."""

    error: Exception


RowOutputs = dict[Output, npt.NDArray[np.float32]]
"""Each output of one row: shape (targets,) for a number per token, (width,) for an array per row."""


@dataclass(frozen=True)
class Wanted:
    """What a forward call is to give.

    Attributes:
        outputs: The outputs; no other is computed.
        next_ids: Token ids whose log-probabilities `next_logprob` gives.
        share: Whether neighbours may share their context.
    """

    outputs: frozenset[Output]
    next_ids: tuple[int, ...] = ()
    share: bool = True

    @property
    def whole(self) -> bool:
        """Whether the model reads the last token too, which is otherwise only predicted."""
        return bool(self.outputs & {"hidden_mean", "hidden_last"})

    def input_tokens(self, row: TokenSequence) -> int:
        """How many tokens of a row the model reads."""
        return len(row.ids) if self.whole else int(row.targets[-1])


@dataclass
class MemoryLimit:
    """How many padded tokens the device holds, learnt from the calls that ran out of memory.

    Attributes:
        tokens: Most padded tokens of a call; None as long as none ran out.
        retries: Calls that ran out of memory.
    """

    tokens: int | None = None
    retries: int = 0

    def rows(self, rows: Sequence[TokenSequence], wanted: Wanted) -> int:
        """How many of these rows to run at a time, at least one."""
        if self.tokens is None:
            return len(rows)
        return max(1, self.tokens // max(wanted.input_tokens(row) for row in rows))

    def lower(self, rows: Sequence[TokenSequence], wanted: Wanted) -> None:
        """Notes that these rows were too many at once: half of them is the limit."""
        width = max(wanted.input_tokens(row) for row in rows)
        self.tokens = max(1, len(rows) // 2) * width
        self.retries += 1


@dataclass(frozen=True)
class CausalModel:
    """A causal language model taken apart, so that the output layer runs only where it is needed.

    Attributes:
        body: From ids to hidden states.
        head: The output layer, from hidden states to logits.
        device: Where ids go.
        chunk_tokens: Positions that go through the head at a time.
        fused: Whether logits are reduced by fused_cpu.py or fused_cuda.py.
        shares_context: Whether it takes answers to one prompt behind that prompt, see layout.py.
        softcap: `final_logit_softcapping` of Gemma: logits become cap * tanh(logits / cap).
        logit_scale: Cohere's factor, or one over Granite's divisor.
    """

    body: Any
    head: Any
    device: torch.device
    chunk_tokens: int
    fused: bool = False
    shares_context: bool = False
    softcap: float | None = None
    logit_scale: float | None = None

    def hidden_states(self, ids: torch.Tensor, **mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states, (B, T, D), of ids (B, T); with position_ids and attention_mask if need be."""
        hidden: torch.Tensor = self.body(input_ids=ids, use_cache=False, **mask).last_hidden_state
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits, (N, V), in the head's own precision, of hidden states (N, D)."""
        logits: torch.Tensor = self.head(hidden)
        if self.logit_scale is not None:
            logits = logits * self.logit_scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits.to(hidden.device)

    def check_gradient(self) -> None:
        """Raises ValueError where the closed form of the output layer's gradient does not hold."""
        if self.softcap is not None or getattr(self.head, "bias", None) is not None:
            raise ValueError(
                "this model caps its logits, or its output layer has a bias; the norm of the output layer's "
                "gradient (donod) has no closed form there. Leave that scorer out, or take another model"
            )


@torch.inference_mode()
def forward(model: CausalModel, rows: Sequence[TokenSequence], wanted: Wanted) -> list[RowOutputs]:
    """Runs the model once over rows padded to the longest; neighbours with one context may share it.

    Args:
        model: The model.
        rows: At least one.
        wanted: What to give.

    Returns:
        The outputs of each row, in order.
    """
    layout = lay_out(rows, wanted.whole, model.shares_context and wanted.share)
    states = read(model, layout)  # (B, T, D)
    flat = states.reshape(-1, states.shape[-1])  # (B*T, D)
    labels = np.concatenate([row.ids[row.targets] for row in rows])
    ends = np.cumsum([len(row.targets) for row in rows])
    hidden = flat.index_select(0, _to_device(layout.sources, flat.device))  # (N, D)
    targets = _to_device(labels, flat.device)
    tokens = _reduce(model, hidden, targets, wanted)
    arrays = {name: value.cpu().numpy() for name, value in tokens.items() if name in wanted.outputs}
    split = {name: np.split(values, ends[:-1]) for name, values in arrays.items()}
    split |= {
        name: list(values.float().cpu().numpy())
        for name, values in _row_outputs(model, states, hidden, targets, tokens, rows, wanted).items()
    }
    return [{name: split[name][row] for name in wanted.outputs} for row in range(len(rows))]


def read(model: CausalModel, layout: Layout) -> torch.Tensor:
    """Last hidden states, (B, T, D), of rows laid out for one call."""
    ids = _to_device(layout.ids, model.device)
    if layout.positions is None or layout.answers is None:
        return model.hidden_states(ids)
    return model.hidden_states(
        ids,
        position_ids=_to_device(layout.positions, model.device),
        attention_mask=attention_mask(layout.answers, model.head.weight.dtype, model.device),
    )


def _to_device(array: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _reduce(
    model: CausalModel, hidden: torch.Tensor, targets: torch.Tensor, wanted: Wanted
) -> dict[Output, torch.Tensor]:
    """The numbers per token, each (N,)."""
    outputs = {output for output in wanted.outputs if output in TOKEN_OUTPUTS}
    if "grad_norm" in wanted.outputs:
        outputs.add("log_partition")
    if not outputs:
        return {}
    parts: list[dict[Output, torch.Tensor]] = []
    rows = 0 if model.fused else min(model.chunk_tokens, len(targets))
    scratch = torch.empty(2, rows, len(model.head.weight), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(targets), model.chunk_tokens):
        logits = model.logits(hidden[start : start + model.chunk_tokens])
        labels = targets[start : start + model.chunk_tokens]
        own = fused_logits(logits, labels) if model.fused else Logits(logits, labels, scratch)
        parts.append(reduce_logits(own, outputs))
    return {output: torch.cat([part[output] for part in parts]) for output in outputs}


def fused_logits(logits: torch.Tensor, labels: torch.Tensor) -> Logits:
    """The logits, all sums over the vocabulary in one call."""
    if logits.device.type == "cpu":
        from scorers.models.fused_cpu import CompiledLogits  # loads Numba

        return CompiledLogits(logits, labels)
    from scorers.models.fused_cuda import FusedLogits  # only machines with CUDA have Triton

    return FusedLogits(logits.contiguous(), labels)


def _row_outputs(
    model: CausalModel,
    states: torch.Tensor,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    tokens: dict[Output, torch.Tensor],
    rows: Sequence[TokenSequence],
    wanted: Wanted,
) -> dict[Output, torch.Tensor]:
    """The arrays per row, each (B, width)."""
    made: dict[Output, torch.Tensor] = {}
    sizes = [len(row.targets) for row in rows]
    if "grad_norm" in wanted.outputs:
        counted = torch.from_numpy(np.concatenate([row.counted for row in rows])).to(hidden.device)
        per_row = [int(row.counted.sum()) for row in rows]
        made["grad_norm"] = gradient_norms(
            model.head.weight, hidden[counted], targets[counted], tokens["log_partition"][counted], per_row,
            max(1, model.chunk_tokens * len(model.head.weight) // len(hidden)), model.logit_scale or 1.0,
        ).unsqueeze(-1)  # fmt: skip
    if "next_logprob" in wanted.outputs:
        first = hidden[torch.tensor(np.cumsum([0, *sizes[:-1]]), device=hidden.device)]  # (B, D)
        parts = torch.split(first, model.chunk_tokens)
        chosen = torch.tensor(wanted.next_ids, device=hidden.device)
        made["next_logprob"] = torch.cat(
            [model.logits(part).float().log_softmax(dim=-1)[:, chosen] for part in parts]
        )
    if wanted.whole:
        lengths = torch.tensor([len(row.ids) for row in rows], device=states.device)
        inside = torch.arange(states.shape[1], device=states.device) < lengths.unsqueeze(-1)  # (B, T)
        if "hidden_mean" in wanted.outputs:
            kept = states.float().masked_fill_(~inside.unsqueeze(-1), 0.0)
            made["hidden_mean"] = kept.sum(dim=1) / lengths.unsqueeze(-1)
        if "hidden_last" in wanted.outputs:
            made["hidden_last"] = states[torch.arange(len(rows), device=states.device), lengths - 1]
    return made


def _without_leaks(
    model: CausalModel, rows: Sequence[TokenSequence], results: Sequence[RowOutputs], wanted: Wanted
) -> Iterator[RowOutputs]:
    """The results; rows that are not finite are read again alone, for NaN passes through any mask."""
    alone = replace(model, shares_context=False)
    for row, outputs in zip(rows, results, strict=True):
        is_finite = all(np.isfinite(values).all() for values in outputs.values())
        yield outputs if is_finite or not model.shares_context else forward(alone, [row], wanted)[0]


def forward_or_fail(
    model: CausalModel, rows: Sequence[TokenSequence], wanted: Wanted, limit: MemoryLimit
) -> list[RowOutputs | RowFailure]:
    """As `forward`, but a batch that fails is tried again in parts before any row is called failed.

    A batch that fails is halved, and each half again, down to single rows; a size that ran out of memory is
    remembered. Errors that no single row can cause (see ROW_ERRORS; a lost device) are raised.
    """
    size = limit.rows(rows, wanted)
    if size < len(rows):
        return [
            result
            for at in range(0, len(rows), size)
            for result in forward_or_fail(model, rows[at : at + size], wanted, limit)
        ]
    try:
        return list(_without_leaks(model, rows, forward(model, rows, wanted), wanted))
    except ROW_ERRORS as error:
        if is_lost(error):
            raise
        is_memory = isinstance(error, torch.OutOfMemoryError)
        if is_memory:
            limit.lower(rows, wanted)
        if len(rows) == 1:
            return [RowFailure(error)]
    # Outside the except block, so that the traceback no longer holds the tensors of the failed call.
    if is_memory:
        torch.cuda.empty_cache()
        return forward_or_fail(model, rows, wanted, limit)
    half = len(rows) // 2
    halves = (rows[:half], rows[half:])
    return [result for part in halves for result in forward_or_fail(model, part, wanted, limit)]


def is_lost(error: Exception) -> bool:
    """Whether the device is lost, so that every later call would fail too."""
    return "CUDA error" in str(error)
