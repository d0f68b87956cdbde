"""A static embedding model: a table of token vectors, and their mean for a text.

Source: model2vec (github.com/MinishLab/model2vec, `StaticModel.encode`), whose files these are: config.json,
tokenizer.json, and model.safetensors with `embeddings` and perhaps `mapping` (from token to row of the table)
and `weights` (of each token). Tables that sentence-transformers saved (`embedding.weight`) are read too.

As there, no special tokens are added and unknown tokens are left out of the mean. A table of 8-bit numbers
has one scale for all of it, which is not stored and makes no difference once vectors have length 1. Other
than there, no text is cut by characters before it is cut by tokens, and vectors always get length 1, whatever
the config says of `normalize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scorers.models.embedding_files import ModelFiles
from scorers.models.embedding_tokens import TextTokenizer, TextTokens


@dataclass(frozen=True)
class StaticTable:
    """Token vectors.

    Attributes:
        vectors: float32, shape (rows, dimensions).
        rows: int64, shape (tokens,): row of each token.
        weights: float32, shape (tokens,): factor of each token's vector.
    """

    vectors: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def embed(self, tokens: TextTokens) -> npt.NDArray[np.float32]:
        """Mean of the vectors of each text's known tokens, float32, shape (texts, dimensions).

        A text without known tokens gets zeros. Sums run in the order of the tokens, in one thread, so a text
        has the same bytes whatever is beside it.
        """
        from scipy.sparse import csr_array

        ids = tokens.ids[tokens.is_known]
        counts = tokens.count(tokens.is_known)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        shape = (len(counts), len(self.vectors))
        sums: npt.NDArray[np.float32] = csr_array((self.weights[ids], self.rows[ids], offsets), shape=shape) @ (
            self.vectors
        )
        return sums / np.maximum(counts, 1).astype(np.float32)[:, None]


def load_static(files: ModelFiles, max_tokens: int) -> tuple[TextTokenizer, StaticTable]:
    """Loads a static model.

    Raises:
        ValueError: If its files are missing, do not fit together, or list modules that are not supported.
    """
    folder = files.modules[0].folder if files.modules else files.folder
    for module in files.modules[1:]:
        if module.type != "Normalize":
            raise ValueError(
                f"model.path: {files.path!r} has a module {module.type} after its static table; "
                "only Normalize is supported there"
            )
    table = _read_table(files.path, folder / "model.safetensors")
    backend = _read_tokenizer(files.path, folder / "tokenizer.json")
    tokens = backend.get_vocab_size(with_added_tokens=True)
    if tokens > len(table.rows):
        raise ValueError(
            f"model.path: the tokenizer of {files.path!r} has {tokens} tokens and its table vectors for "
            f"{len(table.rows)}; the files are of different models"
        )
    return TextTokenizer(backend, max_tokens, len(table.rows), with_special=False), table


def _read_table(path: str, file: Path) -> StaticTable:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type that numpy does not have
        raise ValueError(
            f"model.path: cannot read {file.name} of {path!r} ({error}); wanted a safetensors file of int8 or "
            "float numbers. Pickled weights can run code and are never read"
        ) from error
    vectors = tensors.get("embeddings", tensors.get("embedding.weight"))
    if vectors is None or vectors.ndim != 2:
        raise ValueError(
            f"model.path: {file.name} of {path!r} has no table `embeddings` of shape (tokens, dimensions); "
            f"found {', '.join(sorted(tensors)) or 'nothing'}"
        )
    rows = tensors.get("mapping", np.arange(len(vectors))).astype(np.int64)
    weights = tensors.get("weights", np.ones(len(rows))).astype(np.float32)
    if len(weights) < len(rows) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(vectors)):
        raise ValueError(f"model.path: mapping, weights and embeddings of {path!r} do not fit together")
    return StaticTable(np.ascontiguousarray(vectors, dtype=np.float32), rows, weights)


def _read_tokenizer(path: str, file: Path) -> Any:  # noqa: ANN401 - tokenizers is untyped
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the tokenizers package raises nothing more precise
        raise ValueError(f"model.path: cannot read {file.name} of {path!r}: {error}") from error
