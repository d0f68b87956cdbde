"""Embeddings: the three kinds of model, and what every vector must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from scorers.models.embedding import embedding_fingerprint, load_embedder
from scorers.models.embedding_handler import EmbeddingHandler, embed_examples
from scorers.models.handler import ScoringBatch
from scorers.models.settings import EmbeddingSettings
from tests.pipelines.corpus import MODEL

VOCABULARY = {
    word: number for number, word in enumerate(["[UNK]", "red", "green", "blue", "sky", "sea", "one"])
}
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.null())]))


def write_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    write_tokenizer(folder)
    table = np.zeros((len(VOCABULARY), 4), np.int8)
    table[1:5] = 10 * np.eye(4, dtype=np.int8)
    table[5] = [3, 4, 0, 0]
    save_file({"embeddings": table}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    return folder


def sentence_transformer(folder: Path, pooling: str = "mean_tokens", **modules: str) -> Path:
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)  # noqa: S106
    kinds = {"0": "Transformer", "1": "Pooling", "2": "Normalize", **modules}
    names = {"Transformer": "", "Pooling": "1_Pooling"}
    listed = [
        {"path": names.get(kind, kind), "type": f"sentence_transformers.models.{kind}"}
        for kind in kinds.values()
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    modes = {
        f"pooling_mode_{name}": name == pooling
        for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    return folder


def embed(folder: Path, texts: list[str], threads: int = 1, **settings: Any) -> Any:  # noqa: ANN401
    return load_embedder(EmbeddingSettings(path=str(folder), **settings)).embed(texts, threads)


def test_a_static_vector_is_the_mean_of_its_tokens_at_length_one(static: Path) -> None:
    found = embed(static, ["red", "red green", "sea sea red", "red unheard", "unheard", ""])
    half = np.sqrt(0.5)
    sea = np.array([16, 8, 0, 0]) / np.hypot(16, 8)  # (3, 4) twice and (10, 0)
    expected = [[1, 0, 0, 0], [half, half, 0, 0], sea, [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert found.vectors == pytest.approx(np.array(expected), abs=1e-6)
    assert found.embedded.tolist() == [True] * 4 + [False] * 2
    assert not found.truncated.any()


def test_a_text_whose_vectors_cancel_out_is_not_embedded(static: Path) -> None:
    assert embed(static, ["one", "one one"]).embedded.tolist() == [False, False]  # its vector is zero


def test_a_long_text_is_cut_and_said_to_be(static: Path) -> None:
    found = embed(static, ["red green blue", "red green"], max_tokens=2)
    assert found.truncated.tolist() == [True, False]
    assert np.array_equal(found.vectors[0], found.vectors[1])


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
def test_a_sentence_transformer_pools_as_its_folder_says(pooling: str, tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st", pooling)
    found = embed(folder, ["red green blue", "sky"], max_tokens=64)
    body = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        hidden = body(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state[0]
    pooled = {"mean_tokens": hidden.mean(0), "cls_token": hidden[0], "lasttoken": hidden[-1]}[pooling]
    assert found.vectors[0] == pytest.approx((pooled / pooled.norm()).numpy(), abs=1e-5)
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("pooling", "modules", "message"),
    [("max_tokens", {}, "pools by max_tokens"), ("mean_tokens", {"3": "Dense"}, "a module Dense")],
)
def test_modules_that_are_not_known_are_refused(
    pooling: str, modules: dict[str, str], message: str, tmp_path: Path
) -> None:
    folder = sentence_transformer(tmp_path / "st", pooling, **modules)
    with pytest.raises(ValueError, match=message):
        embed(folder, ["red"], max_tokens=64)


def test_a_causal_model_gives_the_mean_of_its_last_hidden_states() -> None:
    settings = EmbeddingSettings(path=str(MODEL), max_tokens=64)
    embedder = load_embedder(settings)
    texts = ["The sky is blue.", "What is two times seven?", "x"]
    found = embedder.embed(texts)
    from transformers import AutoModel, AutoTokenizer

    tokenizer, body = AutoTokenizer.from_pretrained(MODEL), AutoModel.from_pretrained(MODEL)
    body = body.float().eval()
    for text, vector in zip(texts, found.vectors, strict=True):
        with torch.inference_mode():
            mean = body(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0)
        assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", ["causal", "sentence_transformer", "static"])
def test_the_text_of_a_special_token_is_text(kind: str, static: Path, tmp_path: Path) -> None:
    folder = {"causal": MODEL, "static": static}.get(kind) or sentence_transformer(tmp_path / "st")
    if kind == "causal":
        special = AutoTokenizer.from_pretrained(MODEL).eos_token
    else:
        special = "<end>"
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([special])
        tokenizer.save(str(folder / "tokenizer.json"))
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(special)
    rows, _ = load_embedder(EmbeddingSettings(path=str(folder))).model.tokens([f"red {special} sea"])
    assert known is not None
    assert known not in rows[0]


@pytest.mark.parametrize("kind", ["causal", "sentence_transformer", "static"])
def test_a_vector_does_not_depend_on_the_batch_nor_bytes_on_threads(
    kind: str, static: Path, tmp_path: Path
) -> None:
    folder = {"causal": MODEL, "static": static}.get(kind) or sentence_transformer(tmp_path / "st")
    texts = [" ".join(["red", "sky", "sea", "green"][: 1 + n % 4] * (1 + n % 5)) for n in range(30)]
    together = embed(folder, texts, max_tokens=64, batch_tokens=50)
    assert np.array_equal(
        embed(folder, texts, threads=3, max_tokens=64, batch_tokens=50).vectors, together.vectors
    )
    alone = np.concatenate([embed(folder, [text], max_tokens=64).vectors for text in texts])
    assert together.vectors == pytest.approx(alone, abs=1e-5)


def test_the_limit_is_never_more_than_the_context(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st")  # of 64 positions
    found = embed(folder, ["red " * 64, "red " * 65])
    assert found.truncated.tolist() == [False, True]
    assert np.array_equal(found.vectors[0], found.vectors[1])
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10}))
    assert embed(folder, ["red " * 11], max_tokens=50).truncated.all()
    assert embed(MODEL, ["red"], max_tokens=10**6).embedded.all()


def test_a_cut_text_keeps_the_token_that_ends_it(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st", "lasttoken")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="$A one", special_tokens=[("one", 6)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)  # noqa: S106
    found = embed(folder, ["red red red", "red red red red"], max_tokens=4)
    assert found.truncated.tolist() == [False, True]
    assert np.array_equal(found.vectors[0], found.vectors[1])
    assert not embed(folder, ["", " \n"], max_tokens=4).embedded.any()  # though it has a token


def test_a_model_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    folder = sentence_transformer(tmp_path / "st")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layer.1" in name)
    save_file(
        {key: value for key, value in tensors.items() if key != name},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match="has no weights for"):
        embed(folder, ["red"])


def test_pickled_weights_and_unknown_tables_are_refused(static: Path) -> None:
    save_file({"weights": np.zeros((2, 2), np.float32)}, static / "model.safetensors")
    with pytest.raises(ValueError, match="named `embeddings`"):
        embed(static, ["red"])
    (static / "model.safetensors").rename(static / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Pickled weights"):
        embed(static, ["red"], max_tokens=9)


def test_the_fingerprint_changes_with_weights_scope_and_limit(static: Path) -> None:
    def of(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
        return dict(embedding_fingerprint(EmbeddingSettings(path=str(static), **changes)))

    before = of()
    assert before["kind"] == "static"
    assert of(scope="prompt") != before
    assert of(max_tokens=9) != before
    assert of()["pooling"] is None
    save_file({"embeddings": np.ones((7, 4), np.float32)}, static / "model.safetensors")
    assert of()["weights_hash"] != before["weights_hash"]


def test_examples_are_embedded_by_scope_and_rows_without_a_vector_are_null(static: Path) -> None:
    turns = [[{"role": "user", "content": "red"}, {"role": "assistant", "content": "green"}],
             [{"role": "user", "content": "?"}, {"role": "assistant", "content": "sky"}]]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["a", "b"]), pa.array(turns, MESSAGES)], names=["id", "messages"]
    )
    settings = EmbeddingSettings(path=str(static), scope="prompt")
    rows, stats = embed_examples(load_embedder(settings), batch)
    assert rows.column("embedding").to_pylist() == [[1, 0, 0, 0], None]
    handler = EmbeddingHandler(settings)
    [result] = handler.run_inference(ScoringBatch("u", batch), handler.load_model())
    assert result.scores.equals(rows)
    assert stats == {"embedded": 1, "not_embedded": 1, "truncated": 0, "failed": 0}
    assert stats.items() <= result.stats.items()


@pytest.mark.realdata
def test_the_real_static_model_sees_meaning(realdata: Path) -> None:
    folder = realdata / "models" / "potion-base-4m-int8"
    found = embed(
        folder, ["How do I bake bread?", "What is the way to bake a loaf?", "Write a sorting function."]
    )
    one, same, other = found.vectors
    assert one @ same > one @ other + 0.2
