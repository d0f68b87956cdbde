"""Novelty by contrast of two models: what the target expects of a row more than its base does.

    s_t = log p_target(y_t | x, y_<t) - log p_base(y_t | x, y_<t), nats, over the n response tokens

- `novelty` = mean of s_t, each cut to [-10, 10]
- `novelty_sum` = Σ s_t, uncut: the emulated fine-tuning reward at β = 1, log p_target(y|x) / p_base(y|x)
- `novelty_window` = the highest mean of cut s_t over 64 tokens in a row (over all of a shorter response)
- `novelty_implausible` = share of tokens less likely than a tenth of the target's most likely one

Direction: high means that fine-tuning made the row more likely, so that the row resembles what the target was
tuned on and its base does not know; low that it unlearnt it. Which is wanted depends on the use, so none is
declared. Equal models give 0; exchanging the two changes the sign of the first two.

Sources: contrastive generative exploration, "What's New in My Data?", arXiv 2410.14765, with its defaults
γ = 1 and α = 0.1; the reward is that of "An Emulator for Fine-Tuning Large Language Models using Small
Language Models", arXiv 2310.12962. Known differences: the paper generates texts of high contrast and drops
implausible tokens from its search; this scores rows that are there, and counts such tokens. Ours: the cut at
10 nats, without which a few rare tokens decide the mean, and the window. Where the target was tuned on the
very rows that are scored, memorised rows score high: for selection tune on one half and score the other.
"""

from __future__ import annotations

import math

import numpy as np

from scorers.base import Column, Need, Outputs, RowValues, Scorer, TokenValues, row_means

TARGET = Need("conditional", "logprob")
TARGET_TOP = Need("conditional", "top1_logprob")
BASE = Need("conditional", "logprob", model="base")

CUT = 10.0  # nats
WINDOW = 64  # tokens
PLAUSIBLE = math.log(0.1)


def window_means(tokens: TokenValues, window: int) -> RowValues:
    """The highest mean over `window` tokens in a row, of each row; over all tokens of a shorter one.

    Example:
        >>> values = np.float32([0, 4, 2, 0, 3])
        >>> window_means(TokenValues(values, np.array([0, 4, 5, 5])), 2).tolist()
        [3.0, 3.0, nan]
    """
    result = np.full(len(tokens.offsets) - 1, np.nan)
    lengths = np.diff(tokens.offsets)
    for row in np.flatnonzero(lengths):
        width = min(window, int(lengths[row]))
        own = tokens.values[tokens.offsets[row] : tokens.offsets[row + 1]]
        sums = np.concatenate([[0.0], np.cumsum(own, dtype=np.float64)])
        result[row] = np.clip((sums[width:] - sums[:-width]).max() / width, own.min(), own.max())
    return result


def score(outputs: Outputs) -> dict[str, RowValues]:
    """The four columns."""
    target, base = outputs.tokens[TARGET], outputs.tokens[BASE]
    contrast = target.values.astype(np.float64) - base.values
    cut = TokenValues(np.clip(contrast, -CUT, CUT).astype(np.float32), target.offsets)
    implausible = target.values - outputs.tokens[TARGET_TOP].values < PLAUSIBLE
    lengths = np.diff(target.offsets)
    return {
        "novelty": row_means(cut),
        "novelty_sum": (row_means(target) - row_means(base)) * lengths,
        "novelty_window": window_means(cut, WINDOW),
        "novelty_implausible": row_means(TokenValues(implausible.astype(np.float32), target.offsets)),
    }


SCORER = Scorer(
    name="novelty",
    columns=(
        Column(
            "novelty",
            "nats/token",
            -CUT,
            CUT,
            "neither",
            "how much likelier the target finds the response than its base does",
        ),
        Column(
            "novelty_sum",
            "nats",
            -math.inf,
            math.inf,
            "neither",
            "log-ratio of the response's probabilities: the emulated fine-tuning reward",
        ),
        Column("novelty_window", "nats/token", -CUT, CUT, "neither", "highest novelty of 64 tokens in a row"),
        Column(
            "novelty_implausible",
            "",
            0.0,
            1.0,
            "neither",
            "share of tokens below a tenth of the most likely one",
        ),
    ),
    needs=(TARGET, TARGET_TOP, BASE),
    score=score,
    source="CGE, arXiv 2410.14765; emulated fine-tuning, arXiv 2310.12962",
)
