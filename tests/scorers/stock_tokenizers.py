"""Tokenizers trained on a few lines, without special tokens, that split text as those of model families do.

- byte-level BPE cut by a pattern; GPT-4's and its followers put line breaks behind punctuation into one
  token with it, GPT-2's (SmolLM) do not
- SentencePiece with bytes for what it does not know. "prepend" puts a blank before each stretch of text
  between special tokens (Llama 2, Phi 3, TinyLlama), "first" only at the beginning (Mistral), "never" none
  (Gemma); "always" is a Unigram model with a blank at each beginning
"""

from __future__ import annotations

import json
from functools import lru_cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_GPT4_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UNKNOWN = "<unk>"
_LINES = [
    "Where is Paris? In France. And Rome? In Italy. Be brief.\n\n" * 20,
    "system user assistant model tool think [INST] [/INST] <|user|> <|assistant|> <|system|>\n" * 20,
    "see [a](b) and [c](d), then [/INST](e)\n\n\n" * 20,
    "### User:\n\n### Assistant:\n\n" * 20,
]


@lru_cache
def _byte_level(pattern: str) -> str:
    """A trained byte-level BPE as JSON: "gpt2", or "gpt4"."""
    bpe = Tokenizer(models.BPE())
    if pattern == "gpt4":
        cut = pre_tokenizers.Split(Regex(_GPT4_PATTERN), "isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, letters])
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        _LINES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return str(bpe.to_str())


@lru_cache
def _sentencepiece(blank: str) -> str:
    """A trained SentencePiece-like BPE as JSON: `blank` is "prepend", "first" or "never"."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    # Gemma has tokens for several line breaks; Llama and Mistral know a line break only as a byte.
    lines = _LINES if blank == "never" else [line.replace("\n", " ") for line in _LINES]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = [_UNKNOWN, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    whole = Tokenizer(models.BPE(vocabulary, merges, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True))
    if blank == "first":
        whole.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        prepend = [normalizers.Prepend("▁")] if blank == "prepend" else []
        whole.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    whole.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return str(whole.to_str())


@lru_cache
def _unigram() -> str:
    """A trained Unigram model as JSON."""
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = sorted({letter for line in _LINES for letter in line})
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        initial_alphabet=alphabet,
        unk_token=_UNKNOWN,
        special_tokens=[_UNKNOWN],
        show_progress=False,
    )
    pieces.train_from_iterator(_LINES, trainer)
    return str(pieces.to_str())


def trained_core(name: str) -> str:
    """A trained tokenizer without special tokens as JSON, by the name of how it splits text."""
    if name == "always":
        return _unigram()
    return _byte_level(name) if name.startswith("gpt") else _sentencepiece(name)
