"""What a helper thread of Beam says when a worker dies."""

from __future__ import annotations

import threading

import pytest

from pipelines import interrupts


def test_a_pipeline_that_ends_while_its_workers_are_killed_is_not_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook = interrupts._ThreadErrors(lambda args: pytest.fail(str(args)))
    hook.watch = watch = interrupts._Watch(0)
    sent: list[int] = []
    monkeypatch.setattr(interrupts, "_kill_workers", lambda: setattr(hook, "watch", None))
    monkeypatch.setattr(interrupts, "_send_main_thread", sent.append)
    error = RuntimeError("Worker subprocess exited with return code -9")
    hook(threading.ExceptHookArgs((RuntimeError, error, None, None)))
    assert "ended with exit code -9" in watch.reason
    assert sent == []
