"""`winnow push`: the `datasets` folder of a run as a repository of the Hugging Face hub.

The token is the one of `hf auth login`, or HF_TOKEN; it is never an argument, and never printed.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from pipelines.export.dataset_folder import FOLDERS
from pipelines.export.export import export

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}")


def push(out: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Uploads the training set of a run with its card, in place of what an earlier push put there.

    Args:
        out: Output folder of a finished run.
        repo_id: NAME or OWNER/NAME of a data set on the hub; made if it does not exist.
        private: Make it a private one; an existing repository keeps its own setting.

    Returns:
        Address of the data set.

    Raises:
        ValueError: If there is no finished run, the package huggingface_hub is missing, or the hub refuses.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError(f"{repo_id!r} is no name of a repository; wanted NAME or OWNER/NAME")
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ValueError("push needs the package huggingface_hub: pip install 'winnow[hub]'") from error
    with tempfile.TemporaryDirectory(prefix="winnow-push-") as work:
        done = export(out, "datasets", Path(work) / "dataset")
        api = HfApi()
        try:
            made = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            api.upload_folder(
                repo_id=made.repo_id,
                repo_type="dataset",
                folder_path=str(done.folder),
                commit_message=f"{done.written.rows:,} rows, selected by winnow",
                delete_patterns=[f"{name}/*" for name in FOLDERS],
            )
        except (HfHubHTTPError, OSError, ValueError) as error:
            # Of the hub's own words only: a request's headers hold the token.
            said = _TOKEN.sub("hf_…", str(error)).replace(get_token() or "\0", "…")
            raise ValueError(
                f"the hub refused {repo_id!r}: {said}\nLog in with `hf auth login`, and check that the "
                "account may write there"
            ) from None
    return f"https://huggingface.co/datasets/{made.repo_id}"
