"""Masked Thought: corrupts part of the response that the model reads, not what it learns to write.

Source: "Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning of
Language Models", https://arxiv.org/abs/2403.02178, and the authors' code,
github.com/ChangyuChen347/MaskedThought.

Each response token in the *input* is replaced with probability r by a random token (`random`) or by the mask
token (`mask`); the labels stay as they are. r grows linearly from 0 to `rate` over the first batches. The
authors take 0.4 for GSM8K and 0.2 for MATH, random tokens, warmed up over 0.66 of the steps; with the mask
token 0.2, for MetaMath and MAmmoTH.

Known differences: the code may put special tokens in place of a token; here neither special tokens nor any
other token added to the vocabulary (chat markers) are put in or replaced, the end of text among them. The
code's mask is its padding token where there is no mask token; here too, unless that is the end of text.

Ours: the replacements of a row depend on the seed, the number of the batch and the row's own tokens, not on
the rows beside it or its padding. A row seen again in the next epoch is masked anew.

    collator = MaskedThought(DataCollatorForLanguageModeling(pad_token_id), tokenizer, warmup_batches=2000)

A Trainer uses its collator in evaluation too. `UnmaskedEvaluation` mends that:

    class MaskedThoughtTrainer(UnmaskedEvaluation, Trainer): ...

Instead of a collator, `masked_copies` makes masked rows beforehand, of the training set of a run with token
ids (`emit: {tokens: always}`). With a copy for each epoch, train for one epoch over all; r does not grow.
Other columns that training reads (`weight`, `token_weights`) are repeated as `labels` are.

    train = load_dataset("parquet", data_files="OUT/train/*.parquet", split="train")
    vocabulary = np.array(list(tokenizer.get_vocab().values()))
    protected = [*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]

    def mask(batch):
        made = [
            masked_copies(*row, rate=0.4, copies=3, vocabulary=vocabulary, protected=protected)
            for row in zip(batch["id"], batch["input_ids"], batch["labels"])
        ]
        labels = [own for own in batch["labels"] for _ in range(3)]
        return {"input_ids": [ids for copies in made for ids in copies], "labels": labels}

    masked = train.map(mask, batched=True, remove_columns=train.column_names)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from pipelines.selectors.id_order import id_order
from pipelines.training.token_losses import IGNORED

Batch = dict[str, Any]
Collator = Callable[[Sequence[Mapping[str, Any]]], Batch]

MAX_WORKERS = 1024


class MaskedThought:
    """A data collator that masks response tokens in the batches of another.

    Args:
        collator: Makes a batch with `input_ids` and `labels`, tensors of one shape, -100 where a token is
            not of the response.
        tokenizer: Of transformers; says which tokens there are and which are special.
        rate: Probability of a token to be replaced after the warm-up, 0 to 1.
        warmup_batches: Batches over which the probability grows from 0 to `rate`; the paper has two thirds
            of those of the run. Each process counts its own.
        kind: Replace by random tokens or by the mask token.
        seed: Of all randomness.
        batches_made: Where to go on counting when training is resumed.

    Raises:
        ValueError: If an option is out of range, or the tokenizer has no token for `kind`.
    """

    def __init__(
        self,
        collator: Collator,
        tokenizer: Any,  # noqa: ANN401 - transformers is untyped
        rate: float = 0.4,
        *,
        warmup_batches: int,
        kind: Literal["random", "mask"] = "random",
        seed: int = 0,
        batches_made: int = 0,
    ) -> None:
        _check_rate(rate)
        if warmup_batches < 0 or batches_made < 0:
            raise ValueError("masked_thought: warmup_batches and batches_made must be at least 0")
        self.collator = collator
        self.rate = rate
        self.warmup_batches = warmup_batches
        self.seed = seed
        self.batches_made = batches_made
        self._markers = np.array(sorted(_markers(tokenizer)), dtype=np.int64)
        self._replacements = _replacements(tokenizer, kind, self._markers)
        # One count for each worker of a DataLoader, in memory shared with them: they are started anew each
        # epoch, and must not begin the warm-up again.
        made = torch.zeros(MAX_WORKERS, dtype=torch.int64)
        self._made = made.share_memory_()  # type: ignore[no-untyped-call] # torch does not type it

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """The collator's batch, with some of the response's `input_ids` replaced.

        Raises:
            ValueError: If the batch has no labels, or they do not fit its `input_ids`.
        """
        batch = self.collator(features)
        ids, labels = batch.get("input_ids"), batch.get("labels")
        if ids is None or labels is None or ids.shape != labels.shape:
            raise ValueError(
                "masked_thought: the collator must return `input_ids` and `labels`, tensors of one shape; it "
                f"returned {', '.join(sorted(batch)) or 'nothing'}"
            )
        number = self._next_batch()
        rate = mask_rate(number, self.rate, self.warmup_batches)
        rows = [self._mask(*row, number, rate) for row in zip(ids.numpy(), labels.numpy(), strict=True)]
        batch["input_ids"] = torch.from_numpy(np.stack(rows)).to(ids.dtype) if rows else ids
        return batch

    def _next_batch(self) -> int:
        """Number of this batch. Workers make every w-th batch, so the numbers are those of one process."""
        worker = get_worker_info()
        place, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        made = int(self._made[place])
        self._made[place] = made + 1
        return self.batches_made + made * workers + place

    def _mask(
        self, ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], number: int, rate: float
    ) -> npt.NDArray[np.int64]:
        response = np.flatnonzero(labels != IGNORED)
        row = f"{number}:{ids[response].tobytes().hex()}"
        return _masked(ids, response, rate, self._replacements, self._markers, _random(row, self.seed))


def mask_rate(batch: int, rate: float, warmup_batches: int) -> float:
    """Probability of a token to be replaced in a batch, counted from 0.

    Example:
        >>> [mask_rate(batch, 0.4, 4) for batch in (0, 1, 4, 100)]
        [0.0, 0.1, 0.4, 0.4]
    """
    return rate * min(1.0, batch / warmup_batches) if warmup_batches else rate


def masked_copies(
    row_id: str,
    input_ids: Sequence[int],
    labels: Sequence[int],
    *,
    rate: float,
    copies: int,
    vocabulary: npt.ArrayLike,
    protected: npt.ArrayLike,
    seed: int = 0,
) -> list[npt.NDArray[np.int64]]:
    """Copies of a row's `input_ids` with tokens of the response replaced; the labels stay as they are.

    Each depends on (seed, row_id, number of the copy) only, so that more copies begin with the same ones.

    Args:
        row_id: Tells the row from all others.
        input_ids: Token ids of the conversation, shape (t,).
        labels: The same ids where a token is trained on, -100 elsewhere, shape (t,).
        rate: Probability of a token to be replaced, 0 to 1.
        copies: How many to make, at least 0.
        vocabulary: Ids to draw from, each as likely as the others: an array of all, or only a mask token's.
        protected: Ids that are neither drawn nor replaced: special tokens and chat markers. To draw a mask
            token, leave it out.
        seed: Of all randomness.

    Returns:
        One array of int64, shape (t,), for each copy.

    Raises:
        ValueError: If an option is out of range, the lengths differ, or there is no id to draw.

    Example:
        >>> row = "a", [1, 50, 60, 2], [-100, 50, 60, 2]
        >>> masked_copies(*row, rate=1.0, copies=1, vocabulary=[0], protected=[1, 2])[0].tolist()
        [1, 0, 0, 2]
    """
    _check_rate(rate)
    ids, targets = np.array(input_ids, np.int64), np.array(labels, np.int64)
    if copies < 0 or ids.shape != targets.shape:
        raise ValueError(
            f"masked_thought: {row_id}: {copies} copies of {len(ids)} input_ids with {len(targets)} labels; "
            "wanted at least 0 copies, and as many labels as input_ids"
        )
    known, markers = np.asarray(vocabulary, np.int64), np.asarray(protected, np.int64)
    drawn = known[~np.isin(known, markers)]
    if not len(drawn):
        raise ValueError(
            "masked_thought: every id of `vocabulary` is protected, so there is none to put in place of "
            "another; leave a mask token out of `protected`"
        )
    response = np.flatnonzero(targets != IGNORED)
    return [
        _masked(ids, response, rate, drawn, markers, _random(f"copy {copy}:{row_id}", seed))
        for copy in range(copies)
    ]


def _masked(
    ids: npt.NDArray[np.int64],
    response: npt.NDArray[np.int64],
    rate: float,
    replacements: npt.NDArray[np.int64],
    markers: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """The ids with some at the positions `response`, markers aside, replaced."""
    tokens = ids[response]
    chosen = random.random(len(tokens)) < rate
    drawn = random.choice(replacements, len(tokens))
    masked = ids.copy()
    masked[response] = np.where(chosen & ~np.isin(tokens, markers), drawn, tokens)
    return masked


def _random(row: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(int(id_order([f"masked_thought:{row}"], seed)[0]))


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"masked_thought: rate is {rate}, a probability from 0 to 1 is needed")


def _markers(tokenizer: Any) -> set[int]:  # noqa: ANN401 - transformers is untyped
    """Tokens that are no text: special ones, and all that were added to the vocabulary."""
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}


def _replacements(
    tokenizer: Any,  # noqa: ANN401 - transformers is untyped
    kind: Literal["random", "mask"],
    markers: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Tokens to put in place of others, int64, (n,), at least one."""
    if kind == "random":
        tokens = np.setdiff1d(np.array(sorted(tokenizer.get_vocab().values()), dtype=np.int64), markers)
        if not len(tokens):
            raise ValueError("masked_thought: every token of the tokenizer is a special token")
        return tokens
    mask = tokenizer.mask_token_id
    if mask is None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        mask = tokenizer.pad_token_id
    if mask is None:
        raise ValueError(
            "masked_thought: the tokenizer has no mask token, and no padding token other than the end of "
            "text: set tokenizer.mask_token, or use kind='random'"
        )
    return np.array([mask], dtype=np.int64)


class UnmaskedEvaluation:
    """Put before a Trainer class: it evaluates and predicts with the collator inside `MaskedThought`."""

    data_collator: Any

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed on as they are
        """As the Trainer's own, without masks."""
        return self._unmasked(super().get_eval_dataloader, *args, **kwargs)  # type: ignore[misc] # the Trainer's

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed on as they are
        """As the Trainer's own, without masks."""
        return self._unmasked(super().get_test_dataloader, *args, **kwargs)  # type: ignore[misc] # the Trainer's

    def _unmasked(self, make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        masked = self.data_collator
        self.data_collator = masked.collator
        try:
            return make(*args, **kwargs)
        finally:
            self.data_collator = masked
