"""Keep both pictures' gradients, and the composite's colours where they vary slowly: one closed form.

The equation of the last step of GP-GAN (Wu, Zheng, Zhang, Huang: GP-GAN: Towards realistic high-resolution image
blending, 2017), without its network: where the paper takes the low frequencies from a network's output, this takes
those of the plain composite.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment.blend.alpha import check_layers
from augment.blend.poisson import seam
from augment.color import Floats, Pixels

LOW_PASS_PX: Final = 8.0
"""Spread of the Gaussian through which colours are held to those of the composite."""
COLOUR_WEIGHT: Final = 1.0
"""Weight of the colours against the gradients, beta in the paper."""
TAPER_PX: Final = 24
"""Beyond alpha > 0 the change of the background fades to nothing over this distance."""


def blend_gaussian_poisson(foreground: Pixels, background: Pixels, alpha: Pixels) -> Pixels:
    """Minimise |laplacian(x) - div(v)|^2 + beta |low(x) - low(c)|^2 over the whole frame, then fade to the background.

    v is the mixture of both pictures' gradients that `augment.blend.poisson.seam` describes, c the plain composite,
    low a Gaussian low-pass. Shapes and errors as `augment.blend` says. The minimum changes the background, ever less
    with distance; it is faded out over `TAPER_PX` so that the rest of the background stays what it was. Colours of
    the foreground one px beyond alpha > 0 are used.
    """
    check_layers(original=background, edited=foreground, alpha=alpha)
    if not alpha.any():
        return background.copy()
    over, under, share = (layer.astype(np.float32) for layer in (foreground, background, alpha))
    share /= 255
    plain = under + share[..., None] * (over - under)
    correction = solve_frame(seam(over, under, plain, share)) * _fade(alpha)[..., None]
    return np.clip(np.rint(plain + correction), 0, 255).astype(np.uint8)


def solve_frame(right: Floats, *, low_pass_px: float = LOW_PASS_PX, colour_weight: float = COLOUR_WEIGHT) -> Floats:
    """Minimise |L u - right|^2 + beta |G u|^2 in a whole frame with free edges, by the cosine transform.

    L is the negative 5-point Laplacian, G = exp(-s^2 L / 2) the Gaussian of spread s that has the same waves, so both
    are numbers, l and g, for each wave: u = l right / (l^2 + beta g^2).

    Args:
        right: float (H, W, C).
        low_pass_px: s.
        colour_weight: beta, above 0.

    """
    from scipy import fft  # noqa: PLC0415 - as in augment.blend.poisson

    waves = fft.dctn(right, axes=(0, 1))
    down, across = (2 - 2 * np.cos(np.pi * np.arange(side) / side) for side in right.shape[:2])
    eigenvalues = (down[:, None] + across)[..., None]
    low = np.exp(-(low_pass_px**2) * eigenvalues)  # g squared
    factor = (eigenvalues / (eigenvalues**2 + colour_weight * low)).astype(right.dtype)
    return np.asarray(fft.idctn(waves * factor, axes=(0, 1)))


def _fade(alpha: NDArray[np.uint8]) -> Floats:
    """Return 1 where alpha > 0, falling smoothly to 0 at `TAPER_PX`; float32 (H, W)."""
    distance = cv2.distanceTransform((alpha == 0).view(np.uint8), distanceType=cv2.DIST_L2, maskSize=5)
    left = np.clip(1 - distance / np.float32(TAPER_PX), 0, 1)
    return np.asarray(left * left * (3 - 2 * left), np.float32)
