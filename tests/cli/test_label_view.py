"""What `label` says while it works."""

from types import SimpleNamespace

import pytest

from cli import label
from cli.console import Console
from pipeline.worker_view import WorkerView
from storage.ledger import Entry


def test_a_worker_that_is_refused_at_the_end_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nobody has looked since the last entry, and once."""
    monkeypatch.setattr(label, "_LOOK_SECONDS", 1e6)
    workers: list[WorkerView] = []

    class Run:
        plan = SimpleNamespace(left_count=1)
        summary = SimpleNamespace(failed=0)
        settings = SimpleNamespace(budget=None)
        forecast = SimpleNamespace(shortage=lambda: None)
        teacher = SimpleNamespace(problems=())
        workers = SimpleNamespace(view=lambda: tuple(workers))
        used_bytes = 0

        def __iter__(self) -> object:
            yield Entry(key="a", status="done", settings_digest="d")
            workers.append(WorkerView("late", "it cannot write the run", "", 0, 0.0))

    label._follow(Run(), Console(as_json=False))  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("worker late is not used: it cannot write the run") == 1
