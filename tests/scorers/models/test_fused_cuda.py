"""The kernel for CUDA, in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="torch for this platform comes without Triton")

CHECK = """
import numpy as np, torch
from scorers.base import TOKEN_OUTPUTS
from scorers.models import fused_cuda as fused
from scorers.models.outputs import Logits, reduce_logits

fused._BLOCK = 64
torch.manual_seed(0)
for rows, size, dtype in ((7, 1000, torch.float32), (3, 64, torch.float32), (1, 5, torch.float32),
                          (5, 300, torch.bfloat16)):
    logits = (torch.randn(rows, size) * 6).to(dtype)
    logits[0, :4] = logits[0, 0]  # equal ones
    labels = torch.randint(0, size, (rows,))
    labels[0] = 2
    logits[-1, labels[-1]] = 40.0  # nearly certain
    found = reduce_logits(fused.FusedLogits(logits, labels), TOKEN_OUTPUTS)
    scratch = torch.empty(2, rows, size)
    expected = reduce_logits(Logits(logits.float(), labels, scratch), TOKEN_OUTPUTS)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6, err_msg=name)
print("agree")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from scorers.models import fused_cuda as fused

for logits in ("*bf16", "*fp32"):
    types = {"logits": logits, "labels": "*i64", "sums": "*fp32"}
    types |= dict.fromkeys(("stride", "size", "rows"), "i32")
    source = ASTSource(fused._reduce, {**types, "BLOCK": "constexpr"}, {"BLOCK": fused._BLOCK})
    for capability in (80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
print("compiles")
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=False
    )


def test_the_kernel_compiles_for_the_devices_people_have() -> None:
    done = run(COMPILE)
    assert done.stdout == "compiles\n", done.stderr[-2000:]


def test_one_reading_of_the_logits_gives_every_output() -> None:
    done = run(CHECK, TRITON_INTERPRET="1")
    assert done.stdout == "agree\n", done.stderr[-2000:]
