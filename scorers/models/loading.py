"""Loads the model of a recipe, and refuses one that would give wrong scores.

Weights come from safetensors files only, and code that comes with a model is never run.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scorers.base import TOKEN_OUTPUTS
from scorers.models.compiling import compile_layers
from scorers.models.devices import own_cuda_device
from scorers.models.forward import CausalModel, MemoryLimit, Wanted, forward, read
from scorers.models.layout import Layout, lay_out
from scorers.models.rendering import Renderer, check_template, choose_template
from scorers.models.settings import ModelSettings
from scorers.models.tokenising import TokenSequence

_LOG = logging.getLogger(__name__)
# Narrow models need more rows to keep the processor busy; wide ones are busy, and pad less with fewer.
_CPU_BATCH_TOKENS, _NARROW, _NARROW_BATCH_TOKENS = 1024, 512, 2048
_CUDA_BATCH_TOKENS = 16384
# Logits of one chunk. On CPU 128 positions keep the matrix product busy; more is no faster and costs memory.
_CPU_CHUNK_TOKENS = 128
_CPU_CHUNK_BYTES = 64 * 2**20
_CUDA_CHUNK_BYTES = 256 * 2**20
_PROBE_TOKENS = 16
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the probe's largest value


@dataclass(eq=False)  # identity, and weak references, as Beam's shared models need
class LoadedModel:
    """A model ready to score.

    Attributes:
        settings: What the recipe said.
        network: The model itself.
        renderer: From conversations to its token ids.
        batch_tokens: Padded tokens of one forward call.
        limit: What the device turned out to hold.
        block_weights: Weights that every token passes: all but the embeddings and the output layer.
        head_weights: Weights of the output layer, which only predictions of response tokens pass.
    """

    settings: ModelSettings
    network: CausalModel
    renderer: Renderer
    batch_tokens: int
    limit: MemoryLimit = field(default_factory=MemoryLimit)
    block_weights: int = 0
    head_weights: int = 0

    def flop(self, tokens: int, predictions: int) -> int:
        """Floating-point operations of matrix products: 2 for each weight that a token passes.

        Those of attention, few for short rows, are left out; of a mixture of experts all are counted.
        """
        return 2 * (self.block_weights * tokens + self.head_weights * predictions)


_LOADED: weakref.WeakValueDictionary[ModelSettings, LoadedModel] = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def load_model(settings: ModelSettings) -> LoadedModel:
    """The model of these settings, loaded once in a process however many stages use it.

    Raises:
        ValueError: If the model cannot be loaded, is no causal language model, needs code of its own,
            has no safetensors weights, has a context shorter than `max_tokens`, or has a chat template or an
            output layer that this package would score wrongly. The message says what to do.
    """
    with _LOADING:
        model = _LOADED.get(settings)
        if model is None:
            model = _load(settings)
            _LOADED[settings] = model
    return model


def check_device(settings: ModelSettings) -> None:
    """Refuses a device that this machine does not have; another that runs the model may.

    Raises:
        ValueError: If the recipe asks for CUDA and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("model.device: cuda, but torch finds no CUDA device here; give auto or cpu")


def resolve_device(settings: ModelSettings) -> str:
    """The kind of device, "cpu" or "cuda"; `auto` and `spread` go by what this machine has."""
    if settings.device in ("auto", "spread"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


def resolve_dtype(settings: ModelSettings, device: str) -> str:
    """The precision, "float32" or "bfloat16"."""
    if settings.dtype == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    return settings.dtype


def _load(settings: ModelSettings) -> LoadedModel:
    check_device(settings)
    kind = resolve_device(settings)
    dtype = torch.float32 if resolve_dtype(settings, kind) == "float32" else torch.bfloat16
    tokenizer, model = read_model(settings, dtype)
    model.eval().requires_grad_(False)
    if settings.device == "spread":
        places = getattr(model, "hf_device_map", {"": model.device})  # no map where one device holds it all
        device = torch.device(next(iter(places.values())))
    else:
        device = own_cuda_device() if kind == "cuda" else torch.device("cpu")
        model.to(device)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    renderer = renderer_of(settings, tokenizer, model)
    network = _take_apart(model, device, vocabulary)
    _check_network(settings.path, model, network, vocabulary, dtype)
    network = replace(
        network,
        shares_context=_shares_context(model.config, network, vocabulary, dtype),
        fused=_can_fuse(network, vocabulary),
    )
    if settings.compile:
        _compile(settings.path, network, vocabulary, dtype)
    default = _CUDA_BATCH_TOKENS
    if kind == "cpu":
        default = _NARROW_BATCH_TOKENS if network.head.weight.shape[1] < _NARROW else _CPU_BATCH_TOKENS
    head = network.head.weight.numel()
    blocks = sum(weight.numel() for weight in network.body.parameters())
    blocks -= model.get_input_embeddings().weight.numel()
    return LoadedModel(
        settings,
        network,
        renderer,
        settings.batch_tokens or default,
        block_weights=blocks,
        head_weights=head,
    )


def renderer_of(settings: ModelSettings, tokenizer: Any, model: Any) -> Renderer:  # noqa: ANN401 - untyped
    """How conversations become token ids of a model: one way for scoring and for training.

    Raises:
        ValueError: If its chat template breaks on plain conversations, or `max_tokens` is above its context.
    """
    renderer = Renderer(
        tokenizer=tokenizer,
        template=choose_template(tokenizer, settings.chat_template),
        max_tokens=_max_tokens(settings, model.config, tokenizer),
        on_overflow=settings.on_overflow,
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        loss_on=settings.loss_on,
        score_end=settings.score_end,
        on_control_tokens=settings.on_control_tokens,
    )
    check_template(renderer)
    return renderer


def read_model(settings: ModelSettings, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer and the model as transformers loads them, from safetensors and without code of others.

    Raises:
        ValueError: If it cannot be loaded, or weights are missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    refuse_pickles(settings)
    source = {"pretrained_model_name_or_path": settings.path, "revision": settings.revision or "main"}
    try:
        with no_progress_bar():
            tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
            model, info = AutoModelForCausalLM.from_pretrained(
                **source, dtype=dtype, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, device_map="auto" if settings.device == "spread" else None,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"model.path: cannot load {settings.path!r} as a causal language model: {error}\n"
            "Wanted: a folder or hub id with config.json, a tokenizer and safetensors weights, of an "
            "architecture that transformers has built in (code that comes with a model is never run)"
        ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(
            f"model.path: {settings.path!r} has no weights for {missing}; transformers would fill them with "
            "random numbers. Give the complete causal language model, not an encoder or an adapter"
        )
    return tokenizer, model


def refuse_pickles(settings: ModelSettings) -> None:
    """Raises ValueError for a folder without safetensors weights."""
    folder = Path(settings.path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    found = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    raise ValueError(
        f"model.path: {settings.path!r} has no *.safetensors weights "
        f"(found: {', '.join(found) or 'no weights'}). Pickled weights can run code and are never read; "
        "load the model where you trust it and write it with save_pretrained(folder), which makes safetensors"
    )


def _max_tokens(settings: ModelSettings, config: Any, tokenizer: Any) -> int:  # noqa: ANN401 - transformers is untyped
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None and tokenizer.model_max_length < 10**9:  # transformers writes 1e30 for "unknown"
        context = tokenizer.model_max_length
    if context is not None and settings.max_tokens is not None and settings.max_tokens > context:
        raise ValueError(
            f"model.max_tokens: {settings.max_tokens} is above the context of {settings.path!r}, "
            f"{context} tokens; give {context} or less"
        )
    return settings.max_tokens or context or sys.maxsize


def _take_apart(model: Any, device: torch.device, vocabulary: int) -> CausalModel:  # noqa: ANN401 - transformers is untyped
    config = model.config.get_text_config()
    divisor = getattr(config, "logits_scaling", None)
    return CausalModel(
        body=model.base_model,
        head=model.get_output_embeddings(),
        device=device,
        chunk_tokens=_chunk_tokens(device, vocabulary),
        softcap=getattr(config, "final_logit_softcapping", None),
        logit_scale=1.0 / divisor if divisor else getattr(config, "logit_scale", None),
    )


def _chunk_tokens(device: torch.device, vocabulary: int) -> int:
    if device.type == "cpu":
        return max(16, min(_CPU_CHUNK_TOKENS, _CPU_CHUNK_BYTES // (4 * vocabulary)))
    return max(16, _CUDA_CHUNK_BYTES // (4 * vocabulary))


@torch.inference_mode()
def _check_network(
    path: str,
    model: Any,  # noqa: ANN401 - transformers is untyped
    network: CausalModel,
    vocabulary: int,
    dtype: torch.dtype,
) -> None:
    """Compares our path through the model with the model's own, on a few tokens."""
    probe = _probe(vocabulary)
    hidden = read(network, lay_out([probe], whole=True, share=False))
    theirs = model(input_ids=torch.from_numpy(probe.ids)[None].to(network.device)).logits[0]
    if not _close(network.logits(hidden[0]), theirs, dtype):
        raise ValueError(
            f"model.path: the logits of {path!r} are not its output layer applied to its last hidden states "
            "(an unknown scaling or an adapter in between), so its scores would be wrong. This architecture "
            "is not supported"
        )
    half = _PROBE_TOKENS // 2
    beginning = TokenSequence(probe.ids[:half], probe.targets[:1], probe.counted[:1])
    alone = read(network, lay_out([beginning], whole=True, share=False))
    if not _close(alone[0], hidden[0, :half], dtype):
        raise ValueError(
            f"model.path: {path!r} looks at later tokens (it is not causal), so it cannot give the "
            "probability of the next one"
        )


def _probe(vocabulary: int, seed: int = 3) -> TokenSequence:
    ids = (np.arange(_PROBE_TOKENS) * 7919 + seed) % vocabulary
    return TokenSequence(ids, np.arange(1, _PROBE_TOKENS), np.ones(_PROBE_TOKENS - 1, np.bool_))


@torch.inference_mode()
def _shares_context(config: Any, network: CausalModel, vocabulary: int, dtype: torch.dtype) -> bool:  # noqa: ANN401 - transformers is untyped
    """Whether answers behind one prompt, kept apart by a mask, give what they give in rows of their own."""
    if getattr(config.get_text_config(), "sliding_window", None) is not None:
        return False  # our mask would let it look further back than its window
    half = _PROBE_TOKENS // 2
    targets, counted = np.arange(half, _PROBE_TOKENS), np.ones(half, np.bool_)
    one, other = _probe(vocabulary).ids, _probe(vocabulary, seed=5).ids
    other[:half] = one[:half]
    rows = [TokenSequence(ids, targets, counted) for ids in (one, other)]
    try:
        shared, alone = (
            _at_targets(network, lay_out(rows, whole=False, share=share)) for share in (True, False)
        )
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        _LOG.info("answers to one prompt are scored one by one: %s", error)
        return False
    return _close(shared, alone, dtype)


@torch.inference_mode()
def _can_fuse(network: CausalModel, vocabulary: int) -> bool:
    """Whether fused_cpu.py or fused_cuda.py runs here and agrees with the plain reductions."""
    probe = _probe(vocabulary)
    wanted = Wanted(frozenset(TOKEN_OUTPUTS))
    (plain,) = forward(network, [probe], wanted)
    try:
        (fused,) = forward(replace(network, fused=True), [probe], wanted)
    # Numba and Triton compile for the machine at hand; what can go wrong there has no common type.
    except Exception as error:  # noqa: BLE001
        _LOG.warning("logits are reduced by slower means, as the compiled ones do not run here: %s", error)
        return False
    # The plain rank compares logits less the greatest one, where rounding can make unequal ones equal.
    agrees = all(
        np.allclose(fused[name], plain[name], rtol=1e-4, atol=1.0 if name == "rank" else 1e-5)
        for name in plain
    )
    if not agrees:
        _LOG.warning("logits are reduced by slower means, as the compiled ones give other numbers here")
    return agrees


@torch.inference_mode()
def _compile(path: str, network: CausalModel, vocabulary: int, dtype: torch.dtype) -> None:
    """Compiles the layers, and compares what they give with what they gave."""
    layout = lay_out([_probe(vocabulary)], whole=True, share=False)
    plain = read(network, layout)
    try:
        compile_layers(network.body)
        compiled = read(network, layout)
    # The compiler, and the one it calls for the processor, raise what they like.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model.compile: the layers of {path!r} cannot be compiled here: "
            f"{type(error).__name__}: {first}\n"
            "On a processor torch.compile needs a C++ compiler (Debian: apt install g++). Without "
            "compile: true the scores are the same but for rounding"
        ) from error
    if not _close(compiled, plain, dtype):
        raise ValueError(
            f"model.compile: the compiled layers of {path!r} give other hidden states than the model; "
            "leave compile: true out"
        )


def _at_targets(network: CausalModel, layout: Layout) -> torch.Tensor:
    states = read(network, layout)
    return states.reshape(-1, states.shape[-1])[torch.from_numpy(layout.sources).to(states.device)]


def _close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    ours, theirs = ours.float(), theirs.float()
    return bool((ours - theirs).abs().max() <= _TOLERANCE[dtype] * theirs.abs().max())


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keeps transformers' own bar out of ours."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def model_folder(settings: ModelSettings, *, weights: bool = False) -> Path:
    """The model's files on this machine: the folder itself, or the hub's snapshot; weights when asked for."""
    if Path(settings.path).is_dir():
        return Path(settings.path)
    import huggingface_hub

    try:
        snapshot = huggingface_hub.snapshot_download(
            settings.path,
            revision=settings.revision,
            allow_patterns=["*.json", "*.jinja", "*.model", "*.txt", *(["*.safetensors"] if weights else [])],
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: {settings.path!r} is no folder here, and the Hugging Face hub does not give it: "
            f"{error}"
        ) from error
    return Path(snapshot)
