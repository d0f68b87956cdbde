"""Recipes that attack, or hold credentials: refused with what to do, and nothing is written of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from connectors.secrets import holds_secret, without_secrets
from pipelines.recipe import RecipeError, parse_recipe
from pipelines.recipe_file import load_recipe
from tests.pipelines.corpus import recipe, write_corpus
from tests.pipelines.test_cli import _winnow

GOOD = "name: x\ninputs: [{path: a.jsonl}]\n"


def refused(text: str | bytes, folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch FILE']", "!!python/name:os.system", "!!python/module:os",
        "!!python/object/new:os.system [FILE]", "!!int ''", "!!int x", "!!bool x", "!!float ''",
        "!!timestamp x",
        "2001-99-99", "1" * 5000, "[" * 5000, "{a: " * 5000, "&a [*a]", '"\\ud800"', "{1: 2}", "!!binary 'é'",
    ],
)  # fmt: skip
def test_yaml_that_builds_objects_or_breaks_its_reader_is_refused(value: str, tmp_path: Path) -> None:
    refused(GOOD + "seed: " + value.replace("FILE", str(tmp_path / "touched")), tmp_path)
    assert not (tmp_path / "touched").exists()


def test_a_thousand_million_laughs_are_refused_at_once(tmp_path: Path) -> None:
    levels = ["l0: &l0 lol", *(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))]
    started = time.monotonic()
    assert "aliases" in refused("\n".join(levels) + "\n" + GOOD + "score: *l9\n", tmp_path)
    assert time.monotonic() - started < 10


def test_a_data_file_given_as_a_recipe_is_not_parsed(tmp_path: Path) -> None:
    assert "is it a data file?" in refused(b"- a\n" * 2**20, tmp_path)
    assert "not YAML" in refused(b"name: \xff\xfe", tmp_path)


def test_anchors_that_a_recipe_uses_honestly_still_work(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\ninputs:\n  - &a {path: a.jsonl, source: a}\n  - {<<: *a, source: b}\n")
    assert [spec.source_name for spec in load_recipe(path).inputs] == ["a", "b"]


def test_options_of_a_selector_that_are_no_names_are_refused() -> None:
    with pytest.raises(RecipeError, match="no name"):
        parse_recipe({"name": "x", "inputs": [{"path": "a"}], "select": [{"random": {1: 2}}]})


SECRETS = {
    "s3://AKIAKEY:s3cr3t@bucket/a.jsonl": "s3cr3t",
    "https://user:s3cr3t@host/a.jsonl": "s3cr3t",
    "https://s3cr3ttoken@host/a.jsonl": "s3cr3ttoken",
    "https://host/a.jsonl?X-Amz-Signature=s3cr3t&n=1": "s3cr3t",
    "https://host/a.jsonl?n=1&access_token=s3cr3t": "s3cr3t",
    "hf_abcdefghijklmnopqrstuvwxyz": "hf_abcdefghijklmnopqrstuvwxyz",
    "--s3_secret_access_key=s3cr3t": "s3cr3t",
    "--s3_session_token s3cr3t": "s3cr3t",
    "AKIAABCDEFGHIJKLMNOP": "AKIAABCDEFGHIJKLMNOP",
}


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_in_a_recipe_are_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    said = refused(yaml.safe_dump({"name": "x", "inputs": [{"path": text}]}), tmp_path)
    assert "holds a credential" in said
    assert SECRETS[text] not in said
    assert SECRETS[text] not in without_secrets(f"failed at {text}, see the log")
    with pytest.raises(RecipeError, match="holds a credential"):
        parse_recipe({"name": "x", "inputs": [{"path": "a"}], "model": {"path": text}})


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a@b.jsonl", "out/token=3/x", "me@host.org", "data/secret-santa.jsonl", "sk-learn", "a&b"],
)
def test_what_only_resembles_a_credential_is_read(text: str) -> None:
    assert not holds_secret(text)
    assert without_secrets(text) == text


def test_credentials_of_the_environment_and_of_beam_reach_no_file_and_no_line(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data")
    plain = {**recipe(tmp_path / "data"), "output": "out"}
    for key in ("model", "score", "select", "models", "embed", "store"):
        plain.pop(key, None)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    names = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, f"s3cr3t-{name}")
        options = ["--", "--s3_access_key_id=s3cr3t-id", "--s3_secret_access_key=s3cr3t-key"]
        done = _winnow("run", "recipe.yaml", *options, cwd=tmp_path)
    assert "s3cr3t" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    assert not [path for path in files if b"s3cr3t" in path.read_bytes()]
