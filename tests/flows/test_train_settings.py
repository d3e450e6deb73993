"""The settings of `train-realism`: bounds, defaults by source and network, what makes a training the same."""

from __future__ import annotations

import inspect

import pytest

from augment import TRANSFERS
from flows.errors import BadRequest
from flows.make.severity import Drawing
from flows.settings import parse
from flows.train_settings import DEFAULT_SHARE, SAMPLE_STEPS, STEPS, TrainRealismSettings, identity


def settings(**values: object) -> TrainRealismSettings:
    """Return checked settings."""
    return parse(TrainRealismSettings, values)


def test_every_setting_has_a_sentence() -> None:
    """Each field carries a description that ends as a sentence."""
    for name, field in TrainRealismSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_flow_has_the_same_settings() -> None:
    """Parameters of the flow `train-realism`: the same names, in the same order, with equal defaults."""
    from flows.train_realism import train_realism

    parameters = inspect.signature(train_realism.fn).parameters
    assert list(parameters) == list(TrainRealismSettings.model_fields)
    assert settings(**{name: parameter.default for name, parameter in parameters.items()}) == settings()


def test_defaults_follow_source_and_network() -> None:
    """The sample takes fewer steps than photographs, and a network that starts from others' weights a smaller rate."""
    assert (settings().batches, settings(source="coco").batches, settings(steps=7).batches) == (SAMPLE_STEPS, STEPS, 7)
    assert settings().highest_rate == 20 * settings(network="vgg16").highest_rate


def test_command_line_words_are_read() -> None:
    """Families and shares may be written as words."""
    read = settings(without="mkl, idt", share="person=3,other")
    assert read.without == ("mkl", "idt")
    assert read.share == {"person": 3.0, "other": 1.0}


DO_NOT_FIT = {
    "steps": 0,
    "groups": 0,
    "learning_rate": "nan",
    "seed": -1,
    "device": "tpu",
    "threads": 0,
    "network": "resnet",
    "photographs": 1,
    "vigour": 1.5,
    "name": "../elsewhere",
    "output": "a\0b",
    "without": "sepia",
    "share": "person=1,cat=1",
    "colour": "red",
}


@pytest.mark.parametrize("name", DO_NOT_FIT)
def test_what_does_not_fit_is_one_line(name: str) -> None:
    """A value out of bounds, or a name that is unknown, is refused in one line that names it."""
    with pytest.raises(BadRequest, match=name) as refusal:
        settings(**{name: DO_NOT_FIT[name]})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [
        {"share": {"person": 0, "other": 1}},
        {"share": {"person": float("inf")}},
        {"without": [*TRANSFERS, "perturb"]},
        {"vgg16_weights": "vgg16.pth"},
    ],
)
def test_what_makes_no_sense_together_is_refused(values: dict[str, object]) -> None:
    """No people, endless shares, no family left, weights of another network: refused."""
    with pytest.raises(BadRequest):
        settings(**values)


def test_identity_is_what_decides_the_weights() -> None:
    """Where it runs and where it lies may change; seed, steps and what is drawn may not."""
    same = settings(device="cpu", threads=3, name="other", output="there", steps=SAMPLE_STEPS, without="")
    assert identity(same) == identity(settings())
    for change in ({"seed": 1}, {"steps": 9}, {"without": "mkl"}, {"vigour": 0.5}, {"share": "person"}):
        assert identity(settings(**change)) != identity(settings())


def test_names_are_those_of_the_drawing() -> None:
    """Kinds and families of the settings are those that batches are drawn by."""
    drawing = Drawing([], [], seed=0)
    assert set(drawing.share) == set(DEFAULT_SHARE)
    assert set(drawing.families) == {*TRANSFERS, "perturb"}
