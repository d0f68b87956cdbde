"""From texts to token ids for an embedding model, cut to what the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

_TEXTS_PER_CALL = 1024  # the tokenizer's own objects take about 100 bytes a token until they are read
# No running text has longer tokens on average; the rest of a longer text is not even looked at, so that a
# text of many megabytes costs no more than one that fills the model.
_CHARS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Token ids of many texts, end to end.

    Attributes:
        ids: int64, shape (tokens of all texts,); special tokens of the tokenizer's template included.
        offsets: int64, shape (texts + 1,); text i has `ids[offsets[i]:offsets[i + 1]]`.
        is_known: bool, shape (tokens of all texts,); the model has a vector of its own for the token.
        truncated: bool, shape (texts,); the text was longer.
    """

    ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    is_known: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]

    def count(self, tokens: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """How many of the marked tokens each text has, shape (texts,)."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]


class TextTokenizer:
    """A tokenizer set up for one model.

    Args:
        backend: A `tokenizers.Tokenizer`; it is copied.
        max_tokens: Most tokens of a text, special tokens included.
        vocabulary: Rows of the model's table; ids from there on are not known.
        with_special: Whether the tokenizer's template adds its special tokens ([CLS], [SEP]).
    """

    def __init__(self, backend: Any, max_tokens: int, vocabulary: int, with_special: bool) -> None:  # noqa: ANN401 - tokenizers is untyped
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.enable_truncation(max_tokens)
        self._max_chars = max_tokens * _CHARS_PER_TOKEN
        self._with_special = with_special
        self.vocabulary = vocabulary
        # What an empty text has is no content: a text of nothing else says nothing.
        special = self._backend.encode("", add_special_tokens=with_special).ids
        unknown = unknown_id(self._backend)
        self.special = np.array(sorted(set(special)), dtype=np.int64)
        self._no_content = np.array(
            sorted({*special, *([] if unknown is None else [unknown])}), dtype=np.int64
        )

    def __call__(self, texts: Sequence[str]) -> TextTokens:
        """Tokenises texts, in order."""
        parts = [self._tokenize(part) for part in _parts(texts)]
        lengths = np.concatenate([np.zeros(1, np.int64), *(lengths for _, lengths, _ in parts)])
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _, _ in parts)])
        truncated = np.concatenate([np.zeros(0, np.bool_), *(cut for _, _, cut in parts)])
        is_known = (ids < self.vocabulary) & ~np.isin(ids, self._no_content)
        return TextTokens(ids, np.cumsum(lengths), is_known, truncated)

    def _tokenize(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(ids of all texts, tokens of each, whether each was cut)."""
        heads = [_unicode(text[: self._max_chars]) for text in texts]
        encodings = self._backend.encode_batch_fast(heads, add_special_tokens=self._with_special)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum()))
        cut = [
            bool(encoding.overflowing) or len(text) > self._max_chars
            for encoding, text in zip(encodings, texts, strict=True)
        ]
        return flat, lengths, np.array(cut, dtype=np.bool_)


def unknown_id(backend: Any) -> int | None:  # noqa: ANN401 - tokenizers is untyped
    """The id that a tokenizer gives to what it does not know, None where it knows everything."""
    import json

    if hasattr(backend.model, "unk_token"):
        token = backend.model.unk_token
        return None if token is None else backend.token_to_id(token)
    found: int | None = json.loads(backend.to_str())["model"].get("unk_id")  # Unigram tells it only there
    return found


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[at : at + _TEXTS_PER_CALL] for at in range(0, len(texts), _TEXTS_PER_CALL))


def _unicode(text: str) -> str:
    """The text with half surrogate pairs, which have no UTF-8, turned into question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
