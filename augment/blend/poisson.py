"""Keep the gradients of the foreground and meet the background at the edge.

Pérez, Gangnet, Blake: Poisson image editing, 2003.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend.alpha import check_layers
from augment.color import Floats, Pixels

ENOUGH: Final = 0.02
"""Iteration ends when the next step is estimated to change no pixel by more levels than this."""
MAX_ITERATIONS: Final = 200


def blend_poisson(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Solve for the picture with the foreground's gradients where alpha > 0 and the background's values around it.

    Shapes and errors as `augment.blend` says. Where alpha is between, the wanted gradient is the mixture of both
    pictures' by alpha, so soft hair keeps what shines through it; for a hard mask this is the equation of the paper.
    The picture's frame is a free edge, as there. Colours of the foreground one px beyond alpha > 0 are used.
    """
    check_layers(original=background, edited=foreground, alpha=alpha)
    x, y, width, height = cv2.boundingRect(alpha)
    if not width:
        return background.copy()
    window = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    over, under, share = (layer[window].astype(np.float32) for layer in (foreground, background, alpha))
    plain = under + share[..., None] / 255 * (over - under)
    correction = solve_inside(
        seam(over, under, plain, share / np.float32(255)), share > 0, neighbours_of(alpha)[window]
    )
    result = background.copy()
    result[window] = np.clip(np.rint(plain + correction), 0, 255)
    return result


def seam(over: Floats, under: Floats, plain: Floats, share: Floats) -> Floats:
    """Return what the plain composite lacks of the wanted gradients, summed at each pixel (minus its divergence).

    Between two neighbours the wanted difference is that of the foreground by the larger of their alphas, and that of
    the background by the rest.

    Args:
        over: Foreground, (h, w, 3), any scale.
        under: Background.
        plain: The composite that the solution is counted from.
        share: Alpha in 0..1, (h, w).

    """
    total = np.zeros_like(plain)
    for axis in (0, 1):
        first, second = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        part = np.maximum(share[first], share[second])[..., None]
        wanted = part * np.diff(over, axis=axis) + (1 - part) * np.diff(under, axis=axis)
        lacking = wanted - np.diff(plain, axis=axis)
        total[second] += lacking
        total[first] -= lacking
    return total


def neighbours_of(picture: NDArray[np.uint8]) -> Floats:
    """Count each pixel's neighbours inside the picture: 4, fewer at the frame; float32 (H, W)."""
    count = np.full(picture.shape[:2], 4, np.float32)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        count[edge] -= 1
    return count


def solve_inside(right: Floats, inside: NDArray[np.bool_], neighbours: Floats) -> Floats:
    """Solve the discrete Poisson equation in a region of any shape, 0 outside it, by conjugate gradients.

    The preconditioner solves the same equation in the whole rectangle by fast sine transforms, and forgets what lies
    outside the region; some ten to thirty iterations are enough.

    Args:
        right: float32 (h, w, C), the negative Laplacian that is wanted; outside the region not looked at.
        inside: bool (h, w), the region.
        neighbours: float32 (h, w), weight of the middle pixel, as from `neighbours_of`.

    Returns:
        float32 (h, w, C), right to `ENOUGH`.

    """
    from scipy import fft  # noqa: PLC0415 - an import of a quarter of a second that edits need not wait for

    region = inside.astype(np.float32)[..., None]
    sizes = [fft.next_fast_len(side + 1, real=True) - 1 for side in inside.shape]
    inverse = 1 / _sine_eigenvalues(sizes)[..., None]

    def precondition(values: Floats) -> Floats:
        waves = fft.dstn(values, type=1, s=sizes, axes=(0, 1))
        solved = fft.idstn(waves * inverse, type=1, axes=(0, 1))
        return np.asarray(region * solved[: inside.shape[0], : inside.shape[1]], np.float32)

    solution, residual = np.zeros_like(right), right * region
    direction, energy = np.zeros_like(right), np.ones(right.shape[2], np.float32)
    for _ in range(MAX_ITERATIONS):
        step = precondition(residual)
        if float(np.abs(step).max()) <= ENOUGH:
            break
        last, energy = energy, np.sum(residual * step, axis=(0, 1))
        direction = step + _ratio(energy, last) * direction
        image = region * _laplacian(direction, neighbours)
        length = _ratio(energy, np.sum(direction * image, axis=(0, 1)))
        solution, residual = solution + length * direction, residual - length * image
    return solution


def _laplacian(values: Floats, neighbours: Floats) -> Floats:
    """Return the weighted middle minus the four neighbours."""
    result = neighbours[..., None] * values
    result[1:] -= values[:-1]
    result[:-1] -= values[1:]
    result[:, 1:] -= values[:, :-1]
    result[:, :-1] -= values[:, 1:]
    return np.asarray(result)


def _sine_eigenvalues(sizes: list[int]) -> Floats:
    down, across = (2 - 2 * np.cos(np.pi * np.arange(1, side + 1) / (side + 1)) for side in sizes)
    return np.asarray(down[:, None] + across, np.float32)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide channel by channel; 0 where a channel is solved to the last bit."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
