"""Edit the appearance of a person in a photograph by closed formulas, and judge the edit.

Arrays in, arrays out: no file, no clock, and no randomness but in `augment.draw`, whose recipe holds every number
that an edit takes. `draw_recipe` -> `feather` -> `edit_subject` -> `measure_gates` -> `judge_gates` is the whole way.
"""

from augment.blend import feather
from augment.checks import LIMITS, judge_gates, measure_gates
from augment.draw import DEFAULT_FAMILIES, Recipe, draw_recipe
from augment.edit import Edited, edit_subject
from augment.transfer import TRANSFERS

__all__ = [
    "DEFAULT_FAMILIES",
    "LIMITS",
    "TRANSFERS",
    "Edited",
    "Recipe",
    "draw_recipe",
    "edit_subject",
    "feather",
    "judge_gates",
    "measure_gates",
]
