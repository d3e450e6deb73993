"""The flow `train`: a training under Prefect, and what cannot be done in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.make.building import WHOLE, build_in

pytestmark = pytest.mark.usefixtures("_prefect")


def test_the_flow_trains(tiny_coco: Path, tmp_path: Path) -> None:
    """A run's samples become a checkpoint and a report."""
    from flows.train_harmonizer import train

    run = build_in(tiny_coco, tmp_path, **WHOLE).run
    outcome = train(
        network="masked_unet",
        samples=str(run),
        output=str(tmp_path / "trained"),
        name="m",
        steps=10,
        batch=4,
        side=32,
        workers=0,
    )
    assert Path(outcome["report"]).is_file()
    assert (tmp_path / "trained" / "m" / "m.pt").is_file()


def test_the_flow_refuses_in_one_line(tmp_path: Path) -> None:
    """A run that is not there ends the flow run as failed, with the line that the command prints."""
    from flows.train_harmonizer import train

    state = train(network="dovenet", samples=str(tmp_path / "none"), output=str(tmp_path), return_state=True)
    assert state.is_failed()
    assert "does not exist" in (state.message or "")
    assert "\n" not in (state.message or "")
