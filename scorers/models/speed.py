"""What a machine can do at most, to say how much of it scoring uses."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch

_SECONDS = 0.2
_SIZE = {"cpu": 1024, "cuda": 8192}


def matmul_rate(device: str, dtype: str, threads: int) -> float:
    """Floating-point operations per second of square matrix products, as the model's precision has them.

    Args:
        device: "cpu" or "cuda".
        dtype: "float32" or "bfloat16".
        threads: Products side by side on CPU, one core each; without meaning on CUDA.
    """
    size = _SIZE[device]
    shape = (size, size)
    a, b = (torch.ones(shape, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads if device == "cpu" else 1) as pool:
            return sum(pool.map(_rate, [(a, b)] * (threads if device == "cpu" else 1)))
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _rate(factors: tuple[torch.Tensor, torch.Tensor]) -> float:
    torch.set_num_threads(1)
    a, b = factors
    a @ b  # the first is slower
    done, began = 0, time.perf_counter()
    while True:
        a @ b
        if a.device.type == "cuda":
            torch.cuda.synchronize()
        done += 1
        seconds = time.perf_counter() - began
        if seconds > _SECONDS:
            return done * 2 * len(a) ** 3 / seconds
