"""The flows of the fusion networks: what cannot be done is one line, without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("_prefect")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"source": "nowhere"}, "does not exist; give `sample`, a folder in COCO's layout"),
        ({"rounds": 0}, "setting rounds: "),
        ({"streams": 3}, "setting streams: "),
    ],
)
def test_self_teach_refuses_in_one_line(tmp_path: Path, given: dict[str, Any], line: str) -> None:
    """The flow run ends as failed, with the line that the command prints."""
    from flows.self_teach import self_teach

    state = self_teach(output=str(tmp_path), return_state=True, **given)
    assert state.is_failed()
    assert line in (state.message or "")
    assert "\n" not in (state.message or "")


def test_train_fusion_refuses_another_network(tmp_path: Path) -> None:
    """The stage before must be a fusion network."""
    from flows.train_fusion import train_fusion

    state = train_fusion(output=str(tmp_path), first=str(tmp_path / "missing.pt"), return_state=True)
    assert state.is_failed()
    assert "setting first: " in (state.message or "")
