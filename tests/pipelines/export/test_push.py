"""What `winnow push` asks of the hub, with the hub's client replaced by one that remembers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml

from pipelines.export.push import push
from tests.pipelines.export.runs import Kept, chat, make_run

TOKEN = "hf_" + "Secret1234567890"


class FakeHub:
    """HfApi as far as push uses it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, str] = {}

    def create_repo(self, repo_id: str, **options: Any) -> SimpleNamespace:  # noqa: ANN401
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:  # noqa: ANN401
        self.calls.append(("upload_folder", options))
        paths = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        self.files = {
            str(path.relative_to(folder_path)): path.read_text("utf-8") if path.suffix == ".md" else ""
            for path in paths
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return fake


def test_the_folder_of_the_card_is_uploaded_in_place_of_an_earlier_one(tmp_path: Path, hub: FakeHub) -> None:
    out = make_run(tmp_path / "out", [Kept(chat("a", "b")), Kept(chat("c", "d"))])
    assert push(out, "toy", private=True) == "https://huggingface.co/datasets/me/toy"
    (_, made), (_, sent) = hub.calls
    assert made == {"repo_id": "toy", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert sent["repo_id"] == "me/toy"
    assert "train/*" in sent["delete_patterns"]
    assert "2 rows" in sent["commit_message"]
    assert "train/train-00000-of-00001.parquet" in hub.files
    assert yaml.safe_load(hub.files["README.md"].split("---\n")[1])["configs"]
    assert not any(name.startswith(".winnow") for name in hub.files)


def test_a_refusal_is_told_without_the_token(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:  # noqa: ANN401
        raise OSError(f"401 for Bearer {TOKEN}")

    monkeypatch.setattr(hub, "upload_folder", refuse)
    with pytest.raises(ValueError, match="hf auth login") as refused:
        push(make_run(tmp_path / "out", [Kept(chat("a", "b"))]), "toy")
    assert TOKEN not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a b"])
def test_a_name_that_is_none_is_refused_before_anything_is_sent(
    tmp_path: Path, hub: FakeHub, name: str
) -> None:
    with pytest.raises(ValueError, match="OWNER/NAME"):
        push(tmp_path, name)
    assert not hub.calls
