"""Which device a process scores on."""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO

import torch

_HELD: list[IO[str]] = []  # open for as long as the process lives


def cuda_devices() -> int:
    """How many CUDA devices this machine has."""
    return torch.cuda.device_count()


@lru_cache(maxsize=1)
def own_cuda_device() -> torch.device:
    """The CUDA device of this process: each process of a machine takes one that no other has taken.

    A device is taken by a lock on a file in the temporary folder, which ends with the process however that
    ends. Where all are taken, processes share.
    """
    folder = Path(tempfile.gettempdir(), f"winnow-devices-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    for index in range(cuda_devices()):
        file = (folder / str(index)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _HELD.append(file)
        return torch.device("cuda", index)
    return torch.device("cuda", os.getpid() % cuda_devices())
