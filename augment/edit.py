"""Edit one subject as a recipe says: transfer, local light, perturbation, clip, blend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend import check_layers, composite
from augment.color import Floats, Pixels, float_from_srgb, levels_from_floats, rows
from augment.draw import Recipe
from augment.perturb import Perturbation, choose_perturbation, perturb
from augment.transfer import TRANSFERS, ColorMap, Note
from augment.transfer.idt import idt, regrain

NOTE_KEYS = (
    "subject_pixels",
    "reference_pixels",
    "kelvin_subject",
    "kelvin_reference",
    "duv_subject",
    "duv_reference",
    "mired_shift",
    "mired_limited",
    "cct_skipped",
    "gain_limited",
    "perturb_index",
    "perturb_redraws",
    "perturb_clipped",
)
"""Keys of `Edited.notes`, the same for every family; None where a family has nothing to say."""


@dataclass(frozen=True)
class Edited:
    """A composite and what was noticed on the way."""

    picture: Pixels
    """uint8 (H, W, 3), the target with the subject edited; a new array."""
    box: tuple[int, int, int, int]
    """y0, y1, x0, x1 of alpha > 0; the picture is the target outside."""
    notes: dict[str, Note]
    """Under `NOTE_KEYS`; numbers rounded to 6 decimals."""


@dataclass(frozen=True)
class _Subject:
    """The box of a subject, and its pixels gathered: those with alpha > 0, and among them those inside."""

    picture: Pixels  # (h, w, 3)
    alpha: Pixels  # (h, w)
    index: NDArray[np.intp]  # (K,) into the flattened box, alpha > 0
    inside: NDArray[np.intp]  # (N,) into the gathered pixels, alpha > 127
    pixels: Pixels  # (K, 3)


def edit_subject(target: Pixels, alpha: Pixels, reference_pixels: Pixels, recipe: Recipe) -> Edited:
    """Make the composite of a target, an alpha, a reference's pixels and a recipe.

    Statistics are those of alpha > 127. Transfer first (perturbing first would be undone by it), at the strength
    that the local light leaves, then the perturbation around the mean of the edited subject; rounded and clipped
    once, then blended. The family `perturb` has no transfer: strength and light act on its perturbation.

    Args:
        target: uint8 sRGB (H, W, 3).
        alpha: uint8 (H, W), some of it above 127.
        reference_pixels: uint8 sRGB (M, 3), M >= 1; not looked at by the family `perturb`.
        recipe: As drawn.

    Raises:
        TypeError: An array is not uint8.
        ValueError: Wrong shapes, no pixel inside, no reference pixel, unknown family.

    """
    check_layers(original=target, edited=target, alpha=alpha)
    box, subject = _gather(target, alpha)
    notes: dict[str, Note] = dict.fromkeys(NOTE_KEYS)
    notes |= {"subject_pixels": len(subject.inside), "reference_pixels": len(reference_pixels)}
    values = float_from_srgb(subject.pixels)
    if recipe.family == "perturb":
        mapped = _perturbed(values, subject, recipe, notes)
        values = _mixed(values, mapped, subject, recipe)
    else:
        mapped = _transferred(subject, reference_pixels, recipe, notes)
        values = _mixed(values, mapped, subject, recipe)
        values = _perturbed(values, subject, recipe, notes)
    picture = target.copy()
    y0, y1, x0, x1 = box
    picture[y0:y1, x0:x1] = composite(subject.picture, _scattered(values, subject), subject.alpha)
    return Edited(picture, box, {key: _rounded(note) for key, note in notes.items()})


def _gather(target: Pixels, alpha: Pixels) -> tuple[tuple[int, int, int, int], _Subject]:
    x, y, width, height = cv2.boundingRect(alpha)
    box = (y, y + height, x, x + width)
    picture = np.ascontiguousarray(target[y : y + height, x : x + width])
    share = np.ascontiguousarray(alpha[y : y + height, x : x + width])
    index = np.flatnonzero(share > 0)
    inside = np.flatnonzero(share.ravel().take(index) > 127)
    if not len(inside):
        raise ValueError("alpha must be above 127 somewhere, or there is no subject")
    return box, _Subject(picture, share, index, inside, picture.reshape(-1, 3).take(index, axis=0))


def _transferred(subject: _Subject, reference: Pixels, recipe: Recipe, notes: dict[str, Note]) -> Floats:
    color_map = _estimated(subject.pixels.take(subject.inside, axis=0), reference, recipe)
    notes |= color_map.notes
    mapped = color_map.apply(subject.pixels)
    return _regrained(mapped, subject) if recipe.family == "idt" else mapped


def _estimated(inside: Pixels, reference: Pixels, recipe: Recipe) -> ColorMap:
    if recipe.family not in TRANSFERS:
        raise ValueError(f"recipe.family must be perturb or one of {', '.join(TRANSFERS)}, got {recipe.family!r}")
    if recipe.family == "idt" and recipe.idt_rotation is not None and recipe.idt_iterations is not None:
        return idt(inside, reference, rotation=recipe.idt_rotation, iterations=recipe.idt_iterations)
    return TRANSFERS[recipe.family](inside, reference)


def _regrained(mapped: Floats, subject: _Subject) -> Floats:
    edited = float_from_srgb(subject.picture)
    edited.reshape(-1, 3)[subject.index] = mapped
    return regrain(subject.picture, edited, subject.alpha > 0).reshape(-1, 3).take(subject.index, axis=0)


def _mixed(values: Floats, mapped: Floats, subject: _Subject, recipe: Recipe) -> Floats:
    """Go from the original values towards the mapped ones by the strength, (K, 3) each."""
    if recipe.local_angle is None:
        mixed = cv2.addWeighted(rows(mapped), recipe.strength, rows(values), 1 - recipe.strength, 0.0)
        return np.asarray(mixed, np.float32).reshape(-1, 3)
    strength = np.float32(recipe.strength) * local_light(subject.alpha.shape, recipe).take(subject.index)
    return np.asarray(values + cv2.merge([rows(strength)] * 3).reshape(-1, 3) * (mapped - values))


def local_light(shape: tuple[int, ...], recipe: Recipe) -> Floats:
    """Return the field of strength over a subject's box, float32 `shape` (H, W): 1 on the lit side, low on the other.

    Raises:
        ValueError: The recipe has no local light.

    """
    angle, center, width, low = recipe.local_angle, recipe.local_center, recipe.local_width, recipe.local_low
    if angle is None or center is None or width is None or low is None:
        raise ValueError(f"recipe must have all of local_*, got {recipe}")
    y, x = ((2 * np.arange(side, dtype=np.float32) + 1) / side - 1 for side in shape)
    radians = math.radians(angle)
    along = np.float32(math.cos(radians)) * x + np.float32(math.sin(radians)) * y[:, None]
    ramp = np.clip((along - np.float32(center)) / np.float32(width) + np.float32(0.5), 0, 1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    return np.asarray(np.float32(low) + np.float32(1 - low) * smooth)


def _perturbed(values: Floats, subject: _Subject, recipe: Recipe, notes: dict[str, Note]) -> Floats:
    if recipe.perturb is None:
        return values
    chosen: Perturbation = choose_perturbation(values.take(subject.inside, axis=0), recipe.perturb)
    notes |= {
        "perturb_index": chosen.index,
        "perturb_redraws": chosen.redraws,
        "perturb_clipped": chosen.clipped,
    }
    return perturb(values, chosen)


def _scattered(values: Floats, subject: _Subject) -> Pixels:
    """Round and clip to uint8, and put the pixels back into a copy of the box."""
    levels = levels_from_floats(values)
    edited = subject.picture.copy()
    # Three bytes as one element: assigning rows of three is twice as slow.
    edited.view("V3").reshape(-1)[subject.index] = levels.view("V3").reshape(-1)
    return edited


def _rounded(note: Note) -> Note:
    return round(note, 6) if isinstance(note, float) else note
