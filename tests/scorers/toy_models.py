"""A small random Llama with a tokenizer of its own, and examples for it, built in a second."""

# ruff: noqa: ANN401 - transformers is untyped, and stand-ins for its objects are too

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from connectors.examples import EXAMPLE_SCHEMA, Conversation, Message, example_row, message

TEXT = [
    "What is the capital of France? Paris is the capital of France.",
    "Add two and three. Two and three make five, and five is odd.",
    "Name a colour: red, green, blue, yellow. Write a line about the sea.",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONTEXT = 128


def tokenizer(template: str | None = TEMPLATE, texts: Sequence[str] = TEXT) -> Any:
    """A byte-level BPE of about 300 tokens with BOS and EOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=CONTEXT, **{"bos_token": "<s>", "eos_token": "</s>"}
    )
    fast.chat_template = template
    return fast


def write_model(folder: Path, *, tied: bool = False, template: str | None = TEMPLATE) -> Path:
    """A Llama of 2 layers with random weights, large enough to be far from uniform."""
    fast = tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def examples(conversations: Sequence[Sequence[Message]]) -> pa.RecordBatch:
    """Canonical rows of these conversations, ids "toy:0", "toy:1", …"""
    rows = [
        example_row(Conversation(list(turns)), "toy", f"toy:{i}") for i, turns in enumerate(conversations)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=EXAMPLE_SCHEMA)


def pair(prompt: str, response: str) -> list[Message]:
    """A user turn and its answer."""
    return [message("user", prompt), message("assistant", response)]


PAIRS = [
    pair("What is the capital of France?", "Paris is the capital of France."),
    pair("Add two and three.", "five"),
    pair("Name a colour", "red, green, blue, yellow and red again, then blue"),
    pair("é ü 漢字", "🙂 ok"),
    [message("system", "Be brief."), *pair("Write a line", "about the sea")],
    [*pair("Name a colour", "red"), *pair("Another", "blue")],
]
