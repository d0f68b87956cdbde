"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

from __future__ import annotations

import os


def hub_files(
    dataset: str, subset: str | None, split: str | None, revision: str | None
) -> list[tuple[str, str]]:
    """Downloads a data set (or takes it from the cache) and says where its Arrow files are.

    Args:
        dataset: Its id on the hub, or a folder that `datasets.load_dataset` understands.
        subset: Configuration of the data set, None for the only or default one.
        split: One split, None for all of them.
        revision: Commit, tag or branch.

    Returns:
        (name, path) of each Arrow file; the name starts with the split.

    Raises:
        ValueError: If the package is missing or the data set cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"dataset {dataset!r} is on the Hugging Face hub and needs the package datasets: "
            "pip install 'winnow[hub]'"
        ) from error
    try:
        splits = datasets.load_dataset(dataset, name=subset, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"dataset {dataset!r} cannot be loaded: {error}") from error
    if split and split not in splits:
        raise ValueError(f"dataset {dataset!r} has no split {split!r}; it has {', '.join(map(str, splits))}")
    return [
        (f"{name}/{os.path.basename(file['filename'])}", file["filename"])
        for name in ([split] if split else splits)
        for file in splits[name].cache_files
    ]
