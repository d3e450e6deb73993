"""Edit the appearance of a person in a photograph, or bring it into another one, by closed formulas.

Arrays in, arrays out: no file, no clock, and no randomness but in `augment.draw`, whose recipe holds every number
that an edit takes. `draw_recipe` -> `feather` -> `edit_subject` -> `measure_gates` -> `judge_gates` is the whole way
of an edit; `estimate_matte` -> `measure_difficulty` -> `draw_placement` -> `put` -> `BLENDS[name]` that of a composition.
"""

from augment.blend import BLENDS, SUPPORT_PX, feather
from augment.checks import LIMITS, judge_gates, measure_gates
from augment.difficulty import Difficulty, measure_difficulty, touches_frame
from augment.draw import DEFAULT_FAMILIES, Recipe, draw_placement, draw_recipe
from augment.edit import Edited, edit_subject
from augment.matte import Matte, estimate_matte, make_trimap
from augment.place import Placement, choose_placement, put, put_mask
from augment.transfer import TRANSFERS

__all__ = [
    "BLENDS",
    "DEFAULT_FAMILIES",
    "LIMITS",
    "SUPPORT_PX",
    "TRANSFERS",
    "Difficulty",
    "Edited",
    "Matte",
    "Placement",
    "Recipe",
    "choose_placement",
    "draw_placement",
    "draw_recipe",
    "edit_subject",
    "estimate_matte",
    "feather",
    "judge_gates",
    "make_trimap",
    "measure_difficulty",
    "measure_gates",
    "put",
    "put_mask",
    "touches_frame",
]
