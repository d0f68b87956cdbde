"""`winnow rank`: candidate models by how likely they find the answers to K examples of a task.

    bits_per_byte = -Σ log2 p(y_t | x, y_<t) / bytes of the responses in UTF-8,   lowest first

over all response tokens of the K examples; end-of-turn tokens do not count, as templates differ in them.

Source: model ranking of "Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models"
(Rocket), https://arxiv.org/abs/2408.15915: mean perplexity on K-shot answers that show their reasoning,
response tokens only, K from 5 to 50. Known differences: the paper joins it with the accuracy of generated
answers, so that models that are merely sure of the wording fall; accuracy needs generation and is left out.
The published code breaks off before it has ranked anything.

Ours: bits per byte, because a loss per token compares models of one tokenizer only. For those the order is
that of the mean loss per token. Rocket's mean perplexity is shown beside it; one hard example can decide it.
Models are compared on the examples that all of them could score. A tokenizer that loses text (unknown
tokens, lower case only) makes it cheaper than it is, which no number here shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.examples import response_text
from connectors.readers import read_target
from scorers.models.settings import ModelSettings

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SCORERS = ("loss", "top1_agreement", "entropy")
REASON_CHARS = 300
_HEADINGS = ("bits/byte", "loss", "perplexity", "top-1", "entropy", "scored")


@dataclass(frozen=True)
class ModelScores:
    """What one model makes of K examples.

    Attributes:
        model: Its folder or hub id.
        status: Of each example; one without a score has another than "ok".
        tokens: Response tokens that count for the scores, shape (K,).
        loss: Mean loss of these, nats per token, shape (K,), NaN where there is none.
        top1: Share of them that is the model's first choice, shape (K,).
        entropy: Mean entropy of its predictions, nats per token, shape (K,).
    """

    model: str
    status: tuple[str, ...]
    tokens: Ints
    loss: Floats
    top1: Floats
    entropy: Floats


@dataclass(frozen=True)
class Ranked:
    """One line of the table, over the examples that every model could score.

    Attributes:
        model: Its folder or hub id.
        bits_per_byte: Of the responses' text, at least 0; lower is better, with any tokenizer.
        loss: Nats per token, at least 0.
        perplexity: Mean over the examples of exp(mean loss), at least 1; infinite where it overflows.
        top1: Share of the tokens that is the model's first choice, 0 to 1.
        entropy: Nats per token, at least 0.
        scored: How many of all examples the model could score.
    """

    model: str
    bits_per_byte: float
    loss: float
    perplexity: float
    top1: float
    entropy: float
    scored: int


def rank_text(
    path: str,
    models: Sequence[str],
    *,
    max_tokens: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: Literal["auto", "cpu", "cuda", "spread"] = "auto",
    chat_template: str = "auto",
) -> str:
    """Ranks models on the examples of a file, as text.

    Args:
        path: A file, folder or glob of examples with answers, in any format that an input may have.
        models: Folders or hub ids of causal language models; one that is named twice counts once.
        max_tokens: Longest example in tokens; None for each model's context.
        dtype: As under `model:` in a recipe.
        device: As under `model:` in a recipe.
        chat_template: As under `model:` in a recipe, for all models.

    Raises:
        ValueError: If the examples cannot be read, no model can be loaded, or no example can be scored by all
            that can. A model that fails beside others is listed with the reason.
    """
    from pipelines.runner import RunnerChoice

    examples = read_target(path)
    threads = RunnerChoice().threads

    def score(model: str) -> ModelScores:
        settings = ModelSettings(
            path=model,
            max_tokens=max_tokens,
            dtype=dtype,
            device=device,
            chat_template=chat_template,
            score_end=False,
        )
        return score_model(settings, examples, threads)

    scored, failed = score_all(models, score)
    sizes = np.array(
        [len(response_text(turns).encode("utf-8")) for turns in examples["messages"].to_pylist()], np.int64
    )
    ranked, compared = rank(scored, sizes)
    return "\n".join(_lines(path, ranked, failed, scored, compared))


def score_model(settings: ModelSettings, examples: pa.RecordBatch, threads: int) -> ModelScores:
    """Scores the examples with one model, which is let go of afterwards.

    Raises:
        ValueError: If the model cannot be loaded.
        RuntimeError: If it fails on every example.
    """
    from scorers.models.loading import load_model
    from scorers.models.scoring import score_examples
    from scorers.models.tokenising import tokenise_rows

    model = load_model(settings)
    scores, _ = score_examples(model, examples, SCORERS, threads=threads)
    messages, tools = examples["messages"].to_pylist(), examples["tools"].to_pylist()
    rows = tokenise_rows(model.renderer, messages, tools, with_direct=False)
    counted = [0 if row.conditional is None else int(row.conditional.counted.sum()) for row in rows]
    loss, top1, entropy = (
        scores[name].to_numpy(zero_copy_only=False) for name in ("loss", "top1_agreement", "entropy")
    )
    status = tuple(scores["status"].to_pylist())
    return ModelScores(settings.path, status, np.array(counted, np.int64), loss, top1, entropy)


def score_all(
    models: Sequence[str], score: Callable[[str], ModelScores]
) -> tuple[list[ModelScores], dict[str, str]]:
    """Scores with one model after the other; those that fail, with the reason, do not stop the rest.

    Raises:
        ValueError: If none is left.
    """
    scored, failed = [], {}
    for model in dict.fromkeys(models):
        try:
            found = score(model)
        # A folder that others made can break in transformers, tokenizers or safetensors, each with errors of
        # its own (tokenizers raises bare Exception); whatever it is, the other models are still compared.
        except Exception as error:  # noqa: BLE001
            failed[model] = _reason(error)
        else:
            if np.isfinite(found.loss).any():
                scored.append(found)
            else:
                failed[model] = f"scored none of the {len(found.loss)} examples ({_statuses(found)})"
    if not scored:
        reasons = "".join(f"\n  {model}: {reason}" for model, reason in failed.items())
        raise ValueError(f"no model can be ranked:{reasons}")
    return scored, failed


def rank(scored: Sequence[ModelScores], sizes: Ints) -> tuple[list[Ranked], int]:
    """The models, best first, and on how many examples they are compared: those that all of them scored.

    Of models that are equal the first by name comes first.

    Args:
        scored: At least one model.
        sizes: Bytes of each example's response, above 0 where it has a score, shape (K,).

    Raises:
        ValueError: If no example has scores of all models.
    """
    common = np.all([np.isfinite(own.loss) for own in scored], axis=0)
    if not common.any():
        per_model = "; ".join(
            f"{own.model} scored {_scored(own)} of {len(own.loss)} ({_statuses(own)})" for own in scored
        )
        raise ValueError(
            f"no example was scored by all models, so they cannot be compared: {per_model}. Leave a model "
            "out, or give shorter examples"
        )
    lines = [_ranked(own, common, int(sizes[common].sum())) for own in scored]
    return sorted(lines, key=lambda line: (line.bits_per_byte, line.model)), int(common.sum())


def _ranked(own: ModelScores, common: npt.NDArray[np.bool_], size: int) -> Ranked:
    tokens, loss = own.tokens[common], own.loss[common]
    total = int(tokens.sum())
    with np.errstate(over="ignore"):  # a loss above 709 gives an infinite perplexity
        perplexity = float(np.exp(loss).mean())
    nats = float(loss @ tokens)
    return Ranked(
        model=own.model,
        bits_per_byte=nats / math.log(2) / size,
        loss=nats / total,
        perplexity=perplexity,
        top1=float(own.top1[common] @ tokens) / total,
        entropy=float(own.entropy[common] @ tokens) / total,
        scored=_scored(own),
    )


def _scored(own: ModelScores) -> int:
    return int(np.isfinite(own.loss).sum())


def _statuses(own: ModelScores) -> str:
    """Why examples have no scores: "2 overflow, 1 empty_response"."""
    counts = Counter(status for status in own.status if status != "ok")
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _reason(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]} ..."


def _lines(
    path: str, ranked: Sequence[Ranked], failed: dict[str, str], scored: Sequence[ModelScores], compared: int
) -> Iterator[str]:
    total = len(scored[0].loss)
    models = f"{len(ranked)} model" + ("s" if len(ranked) > 1 else "")
    yield f"{path}: {models} on {compared} of {total} examples, best first"
    yield ""
    width = max(len(line.model) for line in ranked)
    yield f"{'model':<{width}}" + "".join(f"{heading:>12}" for heading in _HEADINGS)
    for line in ranked:
        cells = (
            f"{line.bits_per_byte:.4f}",
            f"{line.loss:.4f}",
            f"{line.perplexity:.4g}",
            f"{100 * line.top1:.1f} %",
            f"{line.entropy:.4f}",
            f"{line.scored}/{total}",
        )
        yield f"{line.model:<{width}}" + "".join(f"{cell:>12}" for cell in cells)
    yield ""
    yield from _NOTES
    for own in scored:
        if _scored(own) < total:
            yield f"without scores of {own.model}: {_statuses(own)}; such examples count for no model"
    for model, reason in failed.items():
        yield f"not ranked: {model}: {reason}"


_NOTES = (
    "bits/byte   loss of the responses' text, by its length in UTF-8: lower is better, with any tokenizer",
    "loss        nats per token of the model's own tokenizer: like perplexity, top-1 and entropy it compares",
    "            models of one tokenizer only",
    "perplexity  mean over the examples; top-1: share of the tokens that are the model's first choice",
    "End-of-turn tokens do not count. How often generated answers are right is not measured: a model may be",
    "sure of the wording and still answer wrong.",
)
