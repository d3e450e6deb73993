from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from augment.blend import feather
from augment.checks import LIMITS, SATURATED_CHROMA, foreground_mse, judge_gates, measure_gates
from tests.reference import checks as slow

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def _plain(color: tuple[int, int, int], shape: tuple[int, int] = (4, 5)) -> Picture:
    return np.full((*shape, 3), color, np.uint8)


FULL = np.full((4, 5), 255, np.uint8)


def test_clipping_counts_new_black_and_white_inside() -> None:
    """Of 10 pixels inside, one newly black, one newly white and one white before: a fifth."""
    original, edited, alpha = _plain((90, 80, 70)), _plain((90, 80, 70)), FULL.copy()
    alpha[2:] = 127
    original[0, 0] = edited[0, 0] = 255
    edited[0, 1], edited[1, 1], edited[3, 3] = 0, 255, 0
    assert measure_gates(original, edited, alpha)["clipping"] == pytest.approx(0.2)


def test_one_channel_at_its_end_is_no_clipping() -> None:
    """A saturated red is not counted."""
    assert measure_gates(_plain((200, 50, 50)), _plain((255, 0, 0)), FULL)["clipping"] == 0


@pytest.mark.parametrize(
    ("after", "flip"),
    [((60, 60, 200), 1.0), ((200, 160, 60), 0.0), ((150, 200, 60), 1.0), ((200, 60, 190), 0.0), ((90, 80, 80), 0.0)],
)
def test_hue_flip_of_a_red_shirt(after: tuple[int, int, int], flip: float) -> None:
    """Red to blue or green flips; to orange or magenta, 60 degrees or less, or to grey does not."""
    assert measure_gates(_plain((200, 60, 60)), _plain(after), FULL)["hue_flip"] == flip


def test_too_few_saturated_pixels_say_nothing() -> None:
    """One coloured pixel among 200 grey ones does not make a flip."""
    original, edited = _plain((90, 90, 90), (10, 20)), _plain((90, 90, 90), (10, 20))
    original[0, 0], edited[0, 0] = (200, 0, 0), (0, 0, 200)
    assert measure_gates(original, edited, np.full((10, 20), 255, np.uint8))["hue_flip"] == 0


def test_gates_agree_with_a_loop_over_pixels(target: Picture, mask: Mask) -> None:
    """On a real picture with its channels swapped and pushed, both gates are those of the slow version."""
    original = target[100:180, 50:160]
    edited = np.clip(1.8 * original[..., [1, 0, 2]].astype(float) - 60, 0, 255).astype(np.uint8)
    alpha = feather(mask, 1.5)[100:180, 50:160]
    gates = measure_gates(original, edited, alpha)
    assert gates["clipping"] == pytest.approx(slow.clipping(original, edited, alpha))
    assert gates["hue_flip"] == pytest.approx(slow.hue_flip(original, edited, alpha, chroma=SATURATED_CHROMA), abs=0.01)


def test_no_edit_fails_no_gate(target: Picture, mask: Mask) -> None:
    """A picture against itself measures zero."""
    assert measure_gates(target, target, feather(mask, 1.0)) == {"clipping": 0.0, "hue_flip": 0.0}


def test_an_empty_alpha_measures_zero(target: Picture) -> None:
    """No subject, no fault."""
    nothing = np.zeros(target.shape[:2], np.uint8)
    assert measure_gates(target, 255 - target, nothing) == {"clipping": 0.0, "hue_flip": 0.0}


GOOD = {"clipping": 0.05, "hue_flip": 0.2, "effect_small": 100.0, "effect_large": 5000.0}


def test_values_at_the_limits_pass() -> None:
    """A limit belongs to what is allowed."""
    assert GOOD.items() <= LIMITS.items()
    assert judge_gates(GOOD) is None


@pytest.mark.parametrize(
    ("gate", "value"), [("clipping", 0.06), ("hue_flip", 0.3), ("effect_small", 99.9), ("effect_large", 5000.1)]
)
def test_each_gate_answers_with_value_and_limit(gate: str, value: float) -> None:
    """The reason is the gate's name, beside what was compared."""
    assert judge_gates({**GOOD, gate: value}) == (gate, value, LIMITS[gate])


def test_gates_are_asked_in_order() -> None:
    """Where several fail, the first of the method's order is the reason, in whatever order they came."""
    failing = {"effect_large": 9000.0, "effect_small": 9000.0, "hue_flip": 0.9, "clipping": 0.9}
    assert judge_gates(failing) == ("clipping", 0.9, 0.05)
    assert judge_gates({**failing, "clipping": 0.0}) == ("hue_flip", 0.9, 0.2)


def test_what_was_not_measured_is_not_judged() -> None:
    """None and missing gates pass."""
    assert judge_gates({"effect_small": None}) is None


def test_other_limits_can_be_asked_for() -> None:
    """Limits are an argument; a gate without one is not judged."""
    assert judge_gates({"clipping": 0.04, "hue_flip": 0.9}, limits={"clipping": 0.03}) == ("clipping", 0.04, 0.03)
    assert judge_gates({"hue_flip": 0.9}, limits={"clipping": 0.03}) is None


def test_foreground_mse_by_hand() -> None:
    """Two pixels inside, one off by (3, 0, 4): 25 over 6; pixels outside do not count."""
    real, composite, inside = _plain((9, 9, 9)), _plain((9, 9, 9)), np.zeros((4, 5), bool)
    inside[1, 2] = inside[3, 4] = True
    composite[1, 2], composite[0, 0] = (12, 9, 5), (255, 255, 255)
    assert foreground_mse(real, composite, inside) == pytest.approx(25 / 6)


def test_foreground_mse_is_that_of_floats(target: Picture, mask: Mask) -> None:
    """Whole pictures of large differences overflow nothing."""
    difference = target[mask].astype(float) - (255 - target)[mask]
    assert foreground_mse(target, 255 - target, mask) == pytest.approx(float((difference**2).mean()), rel=1e-12)


def test_foreground_mse_of_nothing_is_zero(target: Picture) -> None:
    """An empty mask is no division by zero."""
    assert foreground_mse(target, 255 - target, np.zeros(target.shape[:2], bool)) == 0


def test_an_alpha_is_no_mask(target: Picture) -> None:
    """The caller decides what is inside."""
    with pytest.raises(TypeError, match="inside must be bool, got uint8"):
        foreground_mse(target, target, np.zeros(target.shape[:2], np.uint8))  # type: ignore[arg-type]
