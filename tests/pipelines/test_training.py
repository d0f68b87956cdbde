"""TRL's SFTTrainer takes the emitted Parquet as it is, token masks included."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from pipelines.progress import Progress
from pipelines.recipe import parse_recipe
from pipelines.run import run
from pipelines.runner import RunnerChoice
from tests.pipelines.corpus import MODEL, recipe, rows_of, write_corpus

# What TRL, accelerate and torch warn about on their own on a machine without a GPU is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def _trainer(out: Path, work: Path) -> Any:  # noqa: ANN401 - TRL is untyped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig, SFTTrainer

    files = str(out / "train" / "*.parquet")
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        train_dataset=datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=str(work / "cache")
        ),
        args=SFTConfig(
            output_dir=str(work / "trained"),
            max_steps=3,
            per_device_train_batch_size=4,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
    )


def test_token_masks_reach_the_loss(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=48)
    done = run(parse_recipe(recipe(tmp_path / "data")), tmp_path / "out", RunnerChoice(), Progress())
    trainer = _trainer(done.out, tmp_path)
    ours = {tuple(row["input_ids"]): row["labels"] for row in rows_of(done.out, "train")}
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert ours[tuple(ids[:length].tolist())] == labels[:length].tolist()
    assert any(-100 in labels[labels.index(next(v for v in labels if v >= 0)) :] for labels in ours.values())
    assert math.isfinite(trainer.train().training_loss)


def test_rows_without_token_masks_train_from_their_messages(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data", rows=48)
    plain = recipe(tmp_path / "data", select=[{"random": {"keep": 0.5}}])
    done = run(parse_recipe(plain), tmp_path / "out", RunnerChoice(), Progress())
    assert "input_ids" not in rows_of(done.out, "train")[0]
    assert math.isfinite(_trainer(done.out, tmp_path).train().training_loss)
