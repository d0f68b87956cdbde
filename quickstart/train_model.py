"""Trains the quickstart's language model: a small Llama with a tokenizer of its own.

    python -m quickstart.train_model --gsm8k GSM8K_FOLDER --openassistant TREES.jsonl

It learns from the clean rows of the sample corpus that are not held out, from rows of the same
generators with other seeds, from GSM8K train (MIT) and from OpenAssistant trees (Apache-2.0).
Planted rows and one clean row in four are never seen; `measure_model.py` measures on those.
Same seed, same number of threads and same torch: same weights.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from connectors.examples import Message, message, normalise, prompt_text, response_text
from quickstart.make_corpus import clean_rows

CONTEXT = 512  # tokens, max_position_embeddings
VOCABULARY = 2048
TOKENS_PER_STEP = 2048
CORPUS_REPEATS = 2  # per epoch; the corpus is a twentieth of GSM8K
SPECIAL_TOKENS = {"bos_token": "<|endoftext|>", "pad_token": "<|pad|>", "eos_token": "<|im_end|>"}
OTHER_SEEDS = range(1, 6)  # of the corpus generators
HELD_OUT_SHARE = 0.25

# ChatML. The newline after a role is a token of its own (see `train_tokenizer`), so a prompt is always a
# token prefix of prompt + response, whatever the response begins with.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}{{- '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
  {{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
  {%- for call in message['tool_calls'] or [] %}
    {%- set arguments = call['function']['arguments'] %}
    {{- '<tool_call>' + call['function']['name'] + ' ' }}
    {{- arguments if arguments is string else arguments | tojson }}
    {{- '</tool_call>' }}
  {%- endfor %}
  {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def held_out(messages: Sequence[Message]) -> bool:
    """Whether a conversation is kept from training: one prompt in four, by the hash of its text."""
    prompt, _ = _key_texts(messages)
    number = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big")
    return number < HELD_OUT_SHARE * 2**64


def corpus_rows() -> list[list[Message]]:
    """Clean conversations to train on, none with a prompt or a response that is held out."""
    kept_back = {text for row in clean_rows() if held_out(row.messages) for text in _key_texts(row.messages)}
    own = [row.messages for row in clean_rows() if not held_out(row.messages)]
    more = [
        row.messages
        for seed in OTHER_SEEDS
        for row in clean_rows(seed)
        if not kept_back.intersection(_key_texts(row.messages))
    ]
    return sorted(own * CORPUS_REPEATS + more, key=str)


def _key_texts(messages: Sequence[Message]) -> tuple[str, str]:
    return normalise(prompt_text(messages)), normalise(response_text(messages))


def gsm8k(path: Path) -> list[list[Message]]:
    """Conversations of one GSM8K file (JSON lines of question and answer)."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [[message("user", row["question"]), message("assistant", row["answer"])] for row in rows]


def openassistant(path: Path) -> list[list[Message]]:
    """One conversation per branch of OpenAssistant's message trees, each ending with an assistant."""
    trees = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [branch for tree in trees for branch in _branches(tree["prompt"], [])]


def _branches(node: dict[str, Any], before: list[Message]) -> Iterator[list[Message]]:
    role = "user" if node["role"] == "prompter" else "assistant"
    so_far = [*before, message(role, node["text"])]
    longer = [branch for reply in node["replies"] for branch in _branches(reply, so_far)]
    if longer:
        yield from longer
    elif role == "assistant":
        yield so_far


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the ChatML template; digits and newlines are tokens of their own."""
    special = [*SPECIAL_TOKENS.values(), "<|im_start|>", "<tool_call>", "</tool_call>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        **SPECIAL_TOKENS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of about one million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, conversations: Sequence[list[Message]]) -> list[list[int]]:
    """Token ids of each conversation in the chat template, cut to the model's context."""
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
    return [ids[:CONTEXT] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def epochs(rows: Sequence[list[int]], seed: int) -> Iterator[list[list[int]]]:
    """Batches of about TOKENS_PER_STEP tokens, for ever; rows of similar length share a batch."""
    order = random.Random(seed)  # noqa: S311 - the order of training rows is no secret
    while True:
        # Sorting by a jittered length keeps padding small and batches different in every epoch.
        by_length = sorted(rows, key=lambda ids: len(ids) * order.uniform(0.9, 1.1))
        batches: list[list[list[int]]] = [[]]
        for ids in by_length:
            if sum(map(len, batches[-1])) + len(ids) > TOKENS_PER_STEP:
                batches.append([])
            batches[-1].append(ids)
        order.shuffle(batches)
        yield from batches


def padded(batch: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and labels, both int64 of shape (rows, longest row); padding has label -100."""
    width = max(map(len, batch))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
    return ids, labels


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train(
    model: LlamaForCausalLM, rows: Sequence[list[int]], steps: int, seed: int, peak: float, checkpoint: Path
) -> None:
    """AdamW on the mean next-token loss of whole conversations, prompts included.

    Args:
        model: Trained in place.
        rows: Token ids of the conversations.
        steps: Of about TOKENS_PER_STEP tokens each.
        seed: Of the order of the rows.
        peak: Highest learning rate.
        checkpoint: Folder that gets the model every 500 steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    batches = epochs(rows, seed)
    started, recent = time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        ids, labels = padded(next(batches), model.config.pad_token_id)
        # Padding is on the right and attention is causal: no real token sees it, so no mask is needed.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent += loss.item()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            left = seconds / (step + 1) * (steps - step - 1)
            print(f"step {step + 1}/{steps}  loss {recent / 50:.3f}  {left / 60:.1f} min left", flush=True)
            recent = 0.0
        if (step + 1) % 500 == 0:
            copy.deepcopy(model).to(torch.float16).save_pretrained(checkpoint)
    model.eval()


def main() -> None:
    """Trains and saves the model."""
    parser = argparse.ArgumentParser(description="Train the quickstart's language model.")
    parser.add_argument("--gsm8k", type=Path, required=True, help="folder with train.jsonl")
    parser.add_argument("--openassistant", type=Path, required=True, help="message trees, JSON lines")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--peak", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    corpus = corpus_rows()
    others = gsm8k(options.gsm8k / "train.jsonl") + openassistant(options.openassistant)
    tokenizer = train_tokenizer([turn["content"] for turns in corpus + others for turn in turns])
    rows = encode(tokenizer, corpus + others)
    model = new_model(tokenizer)
    size = sum(p.numel() for p in model.parameters())
    print(f"{len(rows):,} rows, {sum(map(len, rows)):,} tokens an epoch, {size:,} parameters", flush=True)
    tokenizer.save_pretrained(options.output)
    train(model, rows, options.steps, options.seed, options.peak, options.output)
    copy.deepcopy(model).to(torch.float16).save_pretrained(options.output)


if __name__ == "__main__":
    main()
