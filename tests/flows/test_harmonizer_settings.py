"""The settings of `train`: the flow and the command have the same, each with a sentence."""

from __future__ import annotations

import inspect
from typing import get_args

from flows.harmonizer_settings import NETWORKS, TrainHarmonizerSettings
from flows.settings import parse


def test_every_setting_has_a_sentence() -> None:
    """Each field carries a description that ends as a sentence, and the names are those of the networks."""
    for name, field in TrainHarmonizerSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
    assert get_args(TrainHarmonizerSettings.model_fields["network"].annotation) == NETWORKS


def test_the_flow_has_the_same_settings() -> None:
    """Parameters of the flow `train`: the same names, in the same order, with equal defaults."""
    from flows.train_harmonizer import train

    parameters, given = inspect.signature(train.fn).parameters, {"network": "pix2pix", "samples": "run"}
    assert list(parameters) == list(TrainHarmonizerSettings.model_fields)
    defaults = {name: each.default for name, each in parameters.items() if name not in given}
    assert parse(TrainHarmonizerSettings, {**defaults, **given}) == parse(TrainHarmonizerSettings, given)
