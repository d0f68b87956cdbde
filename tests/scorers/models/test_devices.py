from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scorers.models import devices
from scorers.models.loading import load_model
from scorers.models.scoring import score_examples
from scorers.models.settings import ModelSettings
from tests.scorers.toy_models import PAIRS, examples

CLAIM = (
    "import sys; from scorers.models import devices; devices.cuda_devices = lambda: 2\n"
    "print(devices.own_cuda_device().index, flush=True); sys.stdin.read()"
)


def test_each_process_takes_a_device_of_its_own_and_leaves_it_when_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    running = [start(), start(), start()]
    try:
        taken = [index for _, index in running]
        assert sorted(taken[:2]) == [0, 1]
        assert taken[2] in (0, 1)  # none is left: shared
        running[0][0].kill()
        running[0][0].wait()
        running.append(start())
        assert running[-1][1] == taken[0]
    finally:
        for process, _ in running:
            process.kill()
            process.communicate()


def test_no_cuda_device_is_counted_where_there_is_none() -> None:
    assert devices.cuda_devices() >= 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # of accelerate, where it finds no device
def test_a_model_spread_by_accelerate_gives_the_same_scores(toy_folder: Path) -> None:
    pytest.importorskip("accelerate")
    spread = load_model(ModelSettings(path=str(toy_folder), device="spread"))
    whole = load_model(ModelSettings(path=str(toy_folder), device="auto"))
    names = ["loss", "entropy", "ifd"]
    found, expected = (score_examples(model, examples(PAIRS), names)[0] for model in (spread, whole))
    for name in ("loss", "entropy", "ifd_ppl"):
        np.testing.assert_allclose(found.column(name).to_numpy(), expected.column(name).to_numpy(), rtol=1e-5)
