"""Texts as vectors of length one, by a model that is loaded from a folder or the hub.

- *Static* embeddings (model2vec: a table of token vectors): the mean of the vectors of the text's tokens,
  unknown tokens left out, as the package model2vec computes it.
- *sentence-transformers* (a folder with modules.json): the transformer's last hidden states, pooled as the
  folder says: mean over tokens, first token or last token. Modules other than pooling and normalisation are
  refused.
- A *causal language model*, such as the one that will be tuned: the mean of its last hidden states over the
  tokens of the plain text. [ours: no template, every token weighs the same]

All vectors are scaled to length one, so that their inner product is the cosine similarity. A text without a
single known token, or whose vector is not finite, is not embedded: it has no vector, never a made-up one. A
call that fails is tried again in halves, down to single texts; one that fails alone has no vector either.

On CPU every forward call runs on one torch thread, several side by side, and a batch is packed for itself:
the same texts in one call give the same bytes for any number of threads.
"""

from __future__ import annotations

import json
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from scorers.models import loading
from scorers.models.batching import pack
from scorers.models.fingerprint import fingerprint
from scorers.models.forward import ROW_ERRORS, is_lost
from scorers.models.scoring import ENOUGH_FAILURES, error_text, one_torch_thread
from scorers.models.settings import EmbeddingSettings

Kind = Literal["static", "sentence_transformers", "causal"]
Floats = npt.NDArray[np.float32]
NOT_FINITE = "nonfinite: NaN or infinity in the vector"


class Embedded(NamedTuple):
    """Vectors of some texts.

    Attributes:
        vectors: float32, shape (n, dimensions), each of length one; zeros where there is none.
        embedded: bool, (n,): whether the text has a vector.
        truncated: bool, (n,): whether tokens were cut off.
        failures: Why the model has no vector for a text that has tokens, by the text's place.
    """

    vectors: Floats
    embedded: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    failures: dict[int, str]


class _Model(Protocol):
    dimensions: int

    def tokens(self, texts: Sequence[str]) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]:
        """The ids of each text, cut to the limit, and whether something was cut off."""
        ...

    def vectors(
        self, rows: Sequence[npt.NDArray[np.int64]], threads: int
    ) -> tuple[Floats, dict[int, Exception]]:
        """A vector of any length for each row of at least one id; what the model raised for single rows."""
        ...


@dataclass(eq=False)  # identity, and weak references, as Beam's shared models need
class Embedder:
    """An embedding model ready to use."""

    settings: EmbeddingSettings
    model: _Model

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self.model.dimensions

    def embed(self, texts: Sequence[str], threads: int = 1) -> Embedded:
        """Vectors of texts.

        Args:
            texts: Any texts.
            threads: Forward calls that run side by side on CPU; the result is the same, bit by bit.
        """
        rows, truncated = self.model.tokens(texts)
        # Encoders put a token before and after nothing; that is no text to have a vector.
        known = [index for index, ids in enumerate(rows) if len(ids) and texts[index].strip()]
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        errors: dict[int, Exception] = {}
        if known:
            vectors[known], errors = self.model.vectors([rows[index] for index in known], threads)
        length = np.linalg.norm(vectors.astype(np.float64), axis=1)
        embedded = np.isfinite(length) & (length > 0)
        failures = {int(index): NOT_FINITE for index in np.flatnonzero(~np.isfinite(length))}
        failures |= {known[at]: f"error: {error_text(error)}" for at, error in errors.items()}
        vectors[~embedded] = 0
        vectors[embedded] = (vectors[embedded] / length[embedded, None]).astype(np.float32)
        return Embedded(vectors, embedded, truncated, failures)


_LOADED: weakref.WeakValueDictionary[EmbeddingSettings, Embedder] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def load_embedder(settings: EmbeddingSettings) -> Embedder:
    """The model of these settings, loaded once in a process.

    Raises:
        ValueError: If the model cannot be loaded or is of no kind that is known; the message says what to do.
    """
    with _LOADING:
        embedder = _LOADED.get(settings)
        if embedder is None:
            folder = loading.model_folder(settings.model, weights=True)
            kinds: dict[Kind, Callable[[EmbeddingSettings, Path], _Model]] = {
                "static": _Static,
                "sentence_transformers": _SentenceTransformer,
                "causal": _Causal,
            }
            embedder = Embedder(settings, kinds[model_kind(folder)](settings, folder))
            _LOADED[settings] = embedder
    return embedder


def embedding_fingerprint(settings: EmbeddingSettings) -> dict[str, str | int | None]:
    """What identifies the vectors of a model, without loading it: for resume keys and the manifest.

    Raises:
        ValueError: If the folder or hub id cannot be read.
    """
    known = fingerprint(settings.model)
    kind = model_kind(loading.model_folder(settings.model))
    names = ("name", "revision", "weights_hash", "dtype", "device", "tokenizer_hash", "config_hash")
    folder = loading.model_folder(settings.model)
    pooling = _pooling_of(folder, settings.path) if kind == "sentence_transformers" else None
    chosen = {"kind": kind, "scope": settings.scope, "max_tokens": settings.max_tokens, "pooling": pooling}
    return chosen | {name: known[name] for name in names}


def model_kind(folder: Path) -> Kind:
    """Which kind of model a folder holds."""
    config = _json(folder / "config.json")
    if config.get("model_type") == "model2vec" or "StaticModel" in config.get("architectures", ()):
        return "static"
    return "sentence_transformers" if (folder / "modules.json").exists() else "causal"


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    if not path.exists():
        raise ValueError(f"embedding model: {path} is missing; give a folder or hub id of a complete model")
    return json.loads(path.read_text("utf-8"))


class _Static:
    """A table of token vectors (model2vec)."""

    def __init__(self, settings: EmbeddingSettings, folder: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        loading.refuse_pickles(settings.model)
        tensors = load_file(folder / "model.safetensors")
        if "embeddings" not in tensors or "mapping" in tensors:
            raise ValueError(
                f"embedding model {settings.path!r}: wanted a model2vec table named `embeddings` with one "
                f"row for each token, found {', '.join(sorted(tensors))}"
            )
        self._table = tensors["embeddings"].astype(np.float32)  # (vocabulary, dimensions)
        if "weights" in tensors:
            self._table *= tensors["weights"].astype(np.float32)[:, None]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # such a token's text in the data is text
        unknown = _json(folder / "tokenizer.json")["model"].get("unk_token")
        self._unknown = self._tokenizer.token_to_id(unknown) if unknown else None
        self._limit = settings.max_tokens
        self.dimensions = int(self._table.shape[1])

    def tokens(self, texts: Sequence[str]) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [np.asarray(item.ids, np.int64) for item in encoded]
        if self._unknown is not None:
            rows = [ids[ids != self._unknown] for ids in rows]
        cut = np.array([len(ids) > self._limit for ids in rows], np.bool_)
        return [ids[: self._limit] for ids in rows], cut

    def vectors(
        self, rows: Sequence[npt.NDArray[np.int64]], threads: int
    ) -> tuple[Floats, dict[int, Exception]]:
        del threads  # a look-up in a table is bound by memory, and fails on no row
        counts = np.array([len(ids) for ids in rows])
        # As a sparse matrix of texts by tokens, whose product with the table sums the vectors of each text.
        texts = csr_array(
            (np.ones(counts.sum(), np.float32), np.concatenate(rows), np.r_[0, np.cumsum(counts)]),
            shape=(len(rows), len(self._table)),
        )
        return np.asarray(texts @ self._table / counts[:, None], np.float32), {}


class _Transformer(ABC):
    """What the two kinds with a transformer share: batches, padding and pooling."""

    def __init__(
        self,
        settings: EmbeddingSettings,
        body: Any,  # noqa: ANN401 - transformers is untyped
        tokenizer: Any,  # noqa: ANN401 - transformers is untyped
        device: torch.device,
        context: int,
    ) -> None:
        self._body = body
        self._tokenizer = tokenizer
        self._device = device
        self._batch_tokens = settings.batch_tokens
        self._limit = min(settings.max_tokens, context)
        self.dimensions = int(body.config.get_text_config().hidden_size)

    def tokens(self, texts: Sequence[str]) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]:
        if not texts:
            return [], np.zeros(0, np.bool_)
        whole = self._tokenizer(list(texts), truncation=False, verbose=False, split_special_tokens=True)[
            "input_ids"
        ]
        cut = np.array([len(ids) > self._limit for ids in whole], np.bool_)
        if cut.any():  # by the tokenizer, which keeps the tokens that end a text
            long = [texts[index] for index in np.flatnonzero(cut).tolist()]
            short = self._tokenizer(long, truncation=True, max_length=self._limit, split_special_tokens=True)[
                "input_ids"
            ]
            for index, ids in zip(np.flatnonzero(cut).tolist(), short, strict=True):
                whole[index] = ids
        return [np.asarray(ids, np.int64) for ids in whole], cut

    def vectors(
        self, rows: Sequence[npt.NDArray[np.int64]], threads: int
    ) -> tuple[Floats, dict[int, Exception]]:
        result = np.full((len(rows), self.dimensions), np.nan, np.float32)
        failures: dict[int, Exception] = {}
        batches = pack([len(ids) for ids in rows], self._batch_tokens)

        def forward(batch: Sequence[int]) -> list[Floats | Exception]:
            return self._forward_or_fail([rows[at] for at in batch])

        if self._device.type == "cpu":
            with ThreadPoolExecutor(max(1, threads), initializer=one_torch_thread) as pool:
                found = list(pool.map(forward, batches))
        else:
            found = [forward(batch) for batch in batches]
        for batch, vectors in zip(batches, found, strict=True):
            for at, vector in zip(batch, vectors, strict=True):
                if isinstance(vector, Exception):
                    failures[at] = vector
                else:
                    result[at] = vector
        if len(failures) == len(rows) >= ENOUGH_FAILURES:
            raise next(iter(failures.values()))  # the model is broken, not the texts
        return result, failures

    def _forward_or_fail(self, rows: Sequence[npt.NDArray[np.int64]]) -> list[Floats | Exception]:
        """A vector for each row, or what the model raised for it alone; a failed call is tried in halves."""
        try:
            return list(self._forward(rows))
        except ROW_ERRORS as error:
            if is_lost(error):
                raise
            if len(rows) == 1:
                return [error]
        # Outside the except block, so that the traceback no longer holds the tensors of the failed call.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(rows) // 2
        return [*self._forward_or_fail(rows[:half]), *self._forward_or_fail(rows[half:])]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[npt.NDArray[np.int64]]) -> Floats:
        lengths = torch.tensor([len(ids) for ids in rows])
        ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.from_numpy(row)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        hidden = self._hidden(ids.to(self._device), mask.to(self._device)).float()  # (B, T, D)
        return np.asarray(self._pool(hidden, mask.to(self._device)).cpu().numpy(), np.float32)

    @abstractmethod
    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, D) of token ids (B, T)."""

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)


class _Causal(_Transformer):
    """A causal language model; no attention mask is needed, since no token looks at what comes later."""

    def __init__(self, settings: EmbeddingSettings, folder: Path) -> None:
        del folder
        self._loaded = loading.load_model(settings.model)
        network, renderer = self._loaded.network, self._loaded.renderer
        super().__init__(settings, network.body, renderer.tokenizer, network.device, renderer.max_tokens)

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        del mask
        return self._loaded.network.hidden_states(ids)


_POOLING = ("cls", "mean", "lasttoken")


class _SentenceTransformer(_Transformer):
    """A folder of sentence-transformers: a transformer, pooling, and perhaps normalisation."""

    def __init__(self, settings: EmbeddingSettings, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        loading.refuse_pickles(settings.model)
        loading.check_device(settings.model)
        self._pooling = _pooling_of(folder, settings.path)
        device = torch.device(loading.resolve_device(settings.model))
        dtype = loading.resolve_dtype(settings.model, device.type)
        body, info = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
        missing = [name for name in sorted(info["missing_keys"]) if not name.startswith("pooler.")]
        if missing:  # the pooler is not used; sentence-transformers leaves it out
            raise ValueError(
                f"embedding model {settings.path!r} has no weights for {', '.join(missing[:3])}; "
                "transformers would fill them with random numbers. Give the complete model"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        body = body.eval().requires_grad_(False).to(device)
        super().__init__(settings, body, tokenizer, device, _context(folder, body.config, tokenizer))

    def _hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self._body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling == "cls":
            return hidden[:, 0]
        if self._pooling == "lasttoken":
            return hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
        return super()._pool(hidden, mask)


def _context(folder: Path, config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - transformers is untyped
    """Most tokens the model takes: the least of what its files say."""
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    stated = folder / "sentence_bert_config.json"
    if stated.exists():
        limits.append(_json(stated).get("max_seq_length"))
    return min(int(limit) for limit in limits if limit)


def _pooling_of(folder: Path, name: str) -> str:
    """How the folder pools hidden states.

    Raises:
        ValueError: If it has a module, or a way of pooling, that is not known here.
    """
    pooling = None
    for module in _json(folder / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Pooling":
            if ".." in Path(module["path"]).parts or Path(module["path"]).is_absolute():
                raise ValueError(f"embedding model {name!r}: modules.json points outside of the folder")
            config = _json(folder / module["path"] / "config.json")
            on = [
                key.removeprefix("pooling_mode_") for key in config if config[key] is True and "mode" in key
            ]
            named = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "lasttoken"}
            chosen = [config["pooling_mode"]] if "pooling_mode" in config else on
            pooling = named.get(chosen[0], chosen[0]) if len(chosen) == 1 else None
            if pooling not in _POOLING:
                raise ValueError(
                    f"embedding model {name!r}: pools by {', '.join(chosen)}; known are {', '.join(_POOLING)}"
                )
        elif kind not in ("Transformer", "Normalize"):
            raise ValueError(
                f"embedding model {name!r} has a module {kind}, which is not supported; give a model of a "
                "transformer, pooling and normalisation, or static embeddings"
            )
    if pooling is None:
        raise ValueError(f"embedding model {name!r}: modules.json names no pooling")
    return str(pooling)
