"""The formats of `winnow export`: for whom each is, and what of a row it carries beyond the conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.export import axolotl, dataset_folder, dpo, llama_factory, openai, trl
from pipelines.export.rows import Carry, Losses, RunOutput, Written


@dataclass(frozen=True)
class Format:
    """One way to write a training set.

    Attributes:
        what: What it is, in a line.
        carries: What of a row it carries beyond the conversation.
        write: Writes into an empty folder, and counts what is lost.
        usage: Lines of the trainer's configuration, or of Python, that use the folder.
    """

    what: str
    carries: frozenset[Carry]
    write: Callable[[RunOutput, Path, Losses], Written]
    usage: Callable[[RunOutput, Path], str]


FORMATS = {
    "trl": Format(
        "TRL SFTTrainer: prompt and completion", trl.TEXT_CARRIES, trl.write_messages, trl.messages_usage
    ),
    "trl-tokenised": Format(
        "TRL SFTTrainer: input_ids, labels, weights", trl.TOKEN_CARRIES, trl.write_tokens, trl.tokens_usage
    ),
    "llama-factory": Format(
        "LLaMA-Factory: sharegpt with dataset_info.json",
        llama_factory.CARRIES,
        llama_factory.write_sharegpt,
        llama_factory.usage,
    ),
    "llama-factory-alpaca": Format(
        "LLaMA-Factory: alpaca with dataset_info.json",
        llama_factory.CARRIES,
        llama_factory.write_alpaca,
        llama_factory.usage,
    ),
    "llama-factory-v1": Format(
        "LLaMA-Factory's newer core: messages with loss weights",
        llama_factory.V1_CARRIES,
        llama_factory.write_v1,
        llama_factory.v1_usage,
    ),
    "axolotl": Format(
        "axolotl chat_template: train flags of turns and characters",
        axolotl.CARRIES,
        axolotl.write,
        axolotl.usage,
    ),
    "axolotl-tokenised": Format(
        "axolotl: input_ids, attention_mask, labels",
        axolotl.CARRIES,
        axolotl.write_tokens,
        axolotl.tokens_usage,
    ),
    "openai": Format("OpenAI fine-tuning JSONL", openai.CARRIES, openai.write, openai.usage),
    "dpo": Format("TRL DPOTrainer: pairs of a kept and a worse answer", dpo.CARRIES, dpo.write, dpo.usage),
    "datasets": Format(
        "folder with a dataset card for datasets.load_dataset",
        dataset_folder.CARRIES,
        dataset_folder.write,
        dataset_folder.usage,
    ),
}


def formats_that_carry(carry: str) -> list[str]:
    """Names of the formats that carry something of a row, the table's order."""
    return [name for name, one in FORMATS.items() if carry in one.carries]


def formats_table() -> str:
    """The formats and what they carry, as lines of text."""
    heads = ("row weights", "token masks", "token weights")
    width = max(map(len, FORMATS))
    lines = [f"{'format':<{width}}  " + "  ".join(f"{head:<13}" for head in heads) + "  what it is"]
    for name, one in FORMATS.items():
        cells = [_cell(one, head) for head in heads]
        lines.append(f"{name:<{width}}  " + "  ".join(f"{cell:<13}" for cell in cells) + f"  {one.what}")
    return "\n".join(lines)


def _cell(one: Format, head: str) -> str:
    if head in one.carries:
        return "yes"
    return "0 or 1" if f"{head} of 0 and 1" in one.carries else "no"
