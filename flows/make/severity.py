"""Draw naturals and edits of known severity on the fly: what the realism network learns from, and is measured on.

For learning, all is done on small crops, in groups: a natural, one edit at two strengths, and something else. For
measuring, photographs go through the very path of a build: edit at full size, JPEG, decode, crop.
"""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from augment import DEFAULT_FAMILIES, TRANSFERS, Recipe, draw_recipe, edit_subject, feather, judge_gates, measure_gates
from augment.blend import composite
from augment.checks import foreground_mse
from augment.color import levels_from_floats
from flows.coco.masks import Mask
from flows.coco.pictures import Picture
from flows.coco.select import Split
from flows.coco.sources import Source
from flows.make.compose import decode_jpeg, encode_jpeg
from flows.make.subjects import Subject, annotated_photographs, digest_of
from flows.store.layout import writing
from realism.audit import audit_scores
from realism.checkpoint import Checkpoint
from realism.gate import calibrate, choose_threshold
from realism.metrics import auroc, calibration_error, recall_at_precision, spearman
from realism.networks import Network
from realism.score import SIDE, Crop, prepare, score_crops, score_logits
from realism.train import Batch

Alpha = NDArray[np.uint8]

LADDER: Final = 4
"""Crops a group: natural, an edit, the same stronger, another edit."""
BAND: Final = (100.0, 5000.0)
GROSS_MSE: Final = 2000.0
GROSS: Final = ("overexposed", "hue_flip", "channel_swap", "overshot")
RUNGS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Strengths of the ladders that are measured."""
_CASES_ERRORS: Final = (
    *(OSError, EOFError, TypeError, AttributeError, ValueError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What opening damaged or forged cases is known to raise."""
_PERMUTATIONS: Final = ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1))


@dataclass(frozen=True)
class _Group:
    """One subject's crops in a batch; `mse` is the foreground MSE of each edit, 0 for the natural."""

    crops: NDArray[np.uint8]
    weights: NDArray[np.float32]
    changes: NDArray[np.float32]
    mse: NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """What batches are drawn from, and how.

    Attributes:
        subjects: All of one split.
        references: uint8 (N, 3) each, pixels of people mostly.
        share: How often a kind of subject is drawn; kinds that are absent are left out.
        families: Name to weight of the edits; a family left out is never seen.
        vigour: How strongly whole pictures are changed, 0..1.
        groups: Subjects a batch.
    """

    subjects: Sequence[Subject]
    references: Sequence[Picture]
    seed: int
    groups: int = 16
    vigour: float = 1.0
    share: Mapping[str, float] = field(
        default_factory=lambda: {"person": 0.6, "other": 0.1, "borrowed": 0.15, "segment": 0.15}
    )
    families: Mapping[str, float] = field(
        default_factory=lambda: {
            "luminance_cct": 0.3,
            "histogram": 0.2,
            "mkl": 0.15,
            "reinhard": 0.15,
            "perturb": 0.15,
            "idt": 0.05,
        }
    )
    side: int = SIDE

    def batch(self, step: int) -> Batch:
        """Draw the batch of a step, from the seed and the step alone."""
        rng = np.random.default_rng([self.seed, step])
        kinds = [kind for kind in self.share if kind in self._rows]
        weights = np.array([self.share[kind] for kind in kinds])
        groups = []
        for _ in range(self.groups):
            rows = self._rows[kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]]
            groups.append(self._group(self.subjects[int(rows[rng.integers(len(rows))])], rng))
        mse = np.concatenate([group.mse for group in groups])
        return Batch(
            crops=np.concatenate([group.crops for group in groups]),
            natural=np.tile(np.array([1, 0, 0, 0], np.float32), self.groups),
            weights=np.concatenate([group.weights for group in groups]),
            changes=np.concatenate([group.changes for group in groups]),
            order=pairs_in_order(mse, rng),
        )

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        kinds = np.array([subject.kind for subject in self.subjects])
        return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}

    def _group(self, subject: Subject, rng: np.random.Generator) -> _Group:
        crop = _move_about(subject, rng, side=self.side)
        before, after = draw_development(rng, self.vigour / 2), draw_development(rng, self.vigour)
        base, alpha = before(np.ascontiguousarray(crop[..., :3])), np.ascontiguousarray(crop[..., 3])
        base = after(base) if rng.random() < 0.5 else base  # a photograph that was developed, then edited
        recipe = draw_recipe(rng, families=self.families)
        reference, other = (self.references[int(rng.integers(len(self.references)))] for _ in range(2))
        strengths = np.sort(rng.uniform(0.3, 1.0, 2) * (1.0, rng.choice([1.0, 1.5, 2.0])))
        strong = float(max(strengths[1], strengths[0] + 0.15))
        edits = [
            _natural(base, alpha, reference, rng),
            _edited(base, alpha, reference, dataclasses.replace(recipe, strength=float(strengths[0]))),
            _edited(base, alpha, reference, dataclasses.replace(recipe, strength=strong)),
            self._another(base, alpha, other, rng),
        ]
        pictures = [after(picture) for picture in edits]
        changes = np.stack([_change(after(base), picture, alpha) for picture in pictures])
        changes[0] = 0
        seen = _masked_again(alpha, rng) if rng.random() < 0.7 else alpha
        finish = _draw_encoding(rng)
        crops = np.stack([np.dstack([finish(picture), seen]) for picture in pictures])
        mse = np.array([0.0, *(foreground_mse(base, picture, alpha > 127) for picture in edits[1:])])
        # an edit too small to be seen is neither natural nor unnatural
        weights = np.clip(mse / BAND[0], 0, 1).astype(np.float32) ** 2
        weights[0] = 1.5
        return _Group(crops, weights, changes, mse)

    def _another(self, base: Picture, alpha: Alpha, reference: Picture, rng: np.random.Generator) -> Picture:
        """Draw something gross, or an independent edit."""
        if rng.random() < 0.4:
            return gross(base, alpha, reference, str(rng.choice(GROSS)), rng, families=self.families)
        return _edited(base, alpha, reference, draw_recipe(rng, families=self.families))


def pairs_in_order(mse: NDArray[np.float64], rng: np.random.Generator, *, across: int = 256) -> NDArray[np.int64]:
    """Find pairs of a batch whose order of severity is beyond doubt.

    Args:
        mse: Foreground MSE, (groups * 4,), 0 for naturals.
        rng: Of the choice among pairs of different subjects.
        across: At most so many of those; they must lie much farther apart.

    Returns:
        int64 (P, 2), rows (milder, more severe).
    """
    milder, severer = mse[:, None], mse[None]
    group = np.arange(len(mse)) // LADDER
    same = group[:, None] == group
    near = np.argwhere(same & (severer > 1.3 * milder + 50))
    far = np.argwhere(~same & (severer > 4 * milder + 200))
    return np.concatenate([near, far[rng.permutation(len(far))[:across]]])


def _edited(base: Picture, alpha: Alpha, reference: Picture, recipe: Recipe) -> Picture:
    return edit_subject(base, alpha, reference, recipe).picture


def _natural(base: Picture, alpha: Alpha, reference: Picture, rng: np.random.Generator) -> Picture:
    """Return the picture itself, or through a null edit, or edited as a whole, which leaves the relation natural."""
    u = rng.random()
    if u < 0.6:
        return base
    family = str(rng.choice(("luminance_cct", "histogram", "mkl", "reinhard")))
    if u < 0.85:
        own = base[alpha > 127]
        return _edited(base, alpha, own, plain_recipe(family, 1.0))
    return _mapped_whole(base, alpha, reference, plain_recipe(family, float(rng.uniform(0.2, 0.6))))


def _mapped_whole(base: Picture, alpha: Alpha, reference: Picture, recipe: Recipe) -> Picture:
    """Apply the map that was estimated on the subject to the whole picture."""
    mapped = TRANSFERS[recipe.family](base[alpha > 127], reference).apply(base.reshape(-1, 3)).reshape(base.shape)
    mixed = recipe.strength * mapped + np.float32(1 - recipe.strength) * base
    return levels_from_floats(np.asarray(mixed, np.float32))


def plain_recipe(family: str, strength: float) -> Recipe:
    """Return a recipe of one family without perturbation or local light."""
    idt = family == "idt"
    return Recipe(family, strength, 1.5, None, None, None, None, None, 0 if idt else None, 12 if idt else None)


def gross(
    base: Picture,
    alpha: Alpha,
    reference: Picture,
    kind: str,
    rng: np.random.Generator,
    *,
    families: Mapping[str, float] = DEFAULT_FAMILIES,
) -> Picture:
    """Edit a subject beyond the plausible.

    Args:
        base: uint8 sRGB (H, W, 3).
        alpha: uint8 (H, W).
        reference: uint8 (N, 3), for `overshot`.
        kind: One of `GROSS`: light times 1.8 to 4, hue turned by 90 to 270 degrees, channels swapped, or a transfer
            at strength 1.5 to 2.
        rng: Of the kind's numbers.
        families: Of the transfers.
    """
    if kind == "overshot":
        recipe = draw_recipe(rng, families=families)
        return _edited(base, alpha, reference, dataclasses.replace(recipe, strength=float(rng.uniform(1.5, 2.0))))
    if kind == "overexposed":
        gain = float(rng.uniform(1.8, 4.0)) ** (1 / 2.2)
        return composite(base, cv2.convertScaleAbs(base, alpha=gain).astype(np.uint8), alpha)
    if kind == "hue_flip":
        hsv = cv2.cvtColor(base, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(rng.integers(64, 193))  # a full circle is 256, and wraps
        return composite(base, np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8), alpha)
    if kind == "channel_swap":
        order = _PERMUTATIONS[int(rng.integers(len(_PERMUTATIONS)))]
        return composite(base, np.ascontiguousarray(base[..., order]), alpha)
    raise ValueError(f"kind must be one of {', '.join(GROSS)}, got {kind!r}")


def draw_development(rng: np.random.Generator, vigour: float) -> Callable[[Picture], Picture]:
    """Draw a change of a whole picture: exposure, white balance, gamma, tone curve, black point, saturation.

    Returns:
        A function of uint8 (H, W, 3) to the same; the same numbers for all pictures that it is given.
    """
    light = (np.arange(256) / 255) ** 2.2
    gains = np.exp(rng.normal(0, 0.3 * vigour) + rng.normal(0, 0.15 * vigour, 3))
    value = np.clip(light[:, None] * gains, 0, None) ** (np.exp(rng.uniform(-0.35, 0.35) * vigour) / 2.2)
    bend = rng.uniform(-0.5, 0.5) * vigour
    value = value + bend * value * (1 - value) * (2 * value - 1)
    low, high = rng.uniform(-0.05, 0.08) * vigour, 1 + rng.uniform(-0.1, 0.05) * vigour
    table = np.clip(255 * (low + (high - low) * value), 0, 255).round().astype(np.uint8)[None]
    saturation = float(np.exp(rng.uniform(-0.5, 0.3) * vigour))
    grey = np.array([0.299, 0.587, 0.114])
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
    if rng.random() > vigour:
        return lambda picture: picture
    return lambda picture: np.asarray(cv2.transform(cv2.LUT(picture, table), matrix), np.uint8)


def _move_about(subject: Subject, rng: np.random.Generator, *, side: int) -> Crop:
    """Cut a crop of drawn context and place, mirrored or not."""
    picture, mask = subject.picture, subject.mask
    height, width = mask.shape
    top, bottom, left, right = (rng.random(4) * 0.12 * (height, height, width, width)).astype(int)
    window = np.s_[top : height - bottom, left : width - right]
    context = float(rng.uniform(1.45, 2.0))
    if (
        rng.random() < 0.6
        and 0.6 * np.count_nonzero(mask > 127) < np.count_nonzero(mask[window] > 127) < 0.9 * mask[window].size
    ):
        picture, mask = picture[window], mask[window]
    inside = int(np.count_nonzero(mask > 127))
    if inside in {0, mask.size}:
        raise ValueError(f"subject of photograph {subject.image_id} must cover part of its crop")
    crop = prepare(picture, mask, side=side, context=context)
    if not (crop[..., 3] > 127).any() or (crop[..., 3] > 127).all():
        crop = prepare(subject.picture, subject.mask, side=side)
    return np.ascontiguousarray(crop[:, ::-1]) if rng.random() < 0.5 else crop


def _masked_again(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Grow or shrink a mask by up to 2 px and give its edge another width, as other annotators would."""
    inside = (alpha > 127).view(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
    ramp = 0.5 + (distance + rng.uniform(-2, 2)) / rng.uniform(1.5, 5)
    moved = np.asarray(np.clip(255 * ramp, 0, 255), np.uint8)
    return moved if (moved > 127).any() and not (moved > 127).all() else alpha


def _draw_encoding(rng: np.random.Generator) -> Callable[[Picture], Picture]:
    """Draw a loss of detail for all pictures of a group: scaled down and up, encoded again, both or none."""
    scale = float(rng.uniform(0.5, 1.0)) if rng.random() < 0.25 else 1.0
    quality = int(rng.integers(60, 96)) if rng.random() < 0.4 else None

    def finish(picture: Picture) -> Picture:
        if scale < 1:
            small = cv2.resize(picture, dsize=None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            picture = np.asarray(
                cv2.resize(small, dsize=picture.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8
            )
        if quality is None:
            return picture
        return recompress(picture, quality)

    return finish


def recompress(picture: Picture, quality: int) -> Picture:
    """Encode as JPEG of a quality and decode."""
    _, data = cv2.imencode(".jpg", picture, params=[cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _change(before: Picture, after: Picture, alpha: Alpha) -> NDArray[np.float32]:
    """Tell in six numbers what an edit did: shift of Y, Cb, Cr, change of their spreads, size."""
    pixels = [picture[alpha > 127][None] for picture in (before, after)]
    own, other = (cv2.cvtColor(p, cv2.COLOR_RGB2YCrCb)[0].astype(np.float32) for p in pixels)
    shift = (other.mean(0) - own.mean(0)) / (40, 20, 20)
    spread, former = other.std(0) + 3, own.std(0) + 3
    ratios = np.log(spread / former)
    size = np.log1p(float(((pixels[1].astype(np.float32) - pixels[0]) ** 2).mean())) / 8
    return np.clip(np.array([*shift, ratios[0], ratios[1:].mean(), size], np.float32), -3, 3)


# What networks are measured on.


@dataclass(frozen=True)
class Cases:
    """Crops to measure a network on, with what is known of each; arrays of one length.

    Attributes:
        crops: uint8 (N, side, side, 4).
        subject: Number of the subject.
        image_id: Of its photograph.
        what: `natural`, `edit` (drawn as a build draws), `family` (one edit a family), `gross`, `ladder`, `null`, or
            `shift` (a natural or an edit looked at otherwise; its base is `natural` or the first `edit`).
        name: Family, kind of gross edit, null edit or perturbation.
        strength: Of the edit; 0 for naturals.
        mse: Foreground MSE on the decoded JPEGs.
        passes: Whether the closed-form gates let it pass.
    """

    crops: NDArray[np.uint8]
    subject: NDArray[np.int64]
    image_id: NDArray[np.int64]
    what: NDArray[np.str_]
    name: NDArray[np.str_]
    strength: NDArray[np.float64]
    mse: NDArray[np.float64]
    passes: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write all arrays to one file, whole or not at all."""
        with writing(path) as file:
            np.savez(file, **vars(self))

    def only(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Cases:
        """Return some of them."""
        return Cases(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> Cases:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is damaged, or holds something else.
        """
        try:
            with path.open("rb") as file:
                with zipfile.ZipFile(file) as members:
                    if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                        raise ValueError("packed: it may stand for any size")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    return cls(**arrays)
        except _CASES_ERRORS:
            raise ValueError(f"{path} holds no cases that can be read; remove it") from None


@dataclass(frozen=True)
class _Target:
    """A subject of a photograph at full size."""

    number: int
    image_id: int
    picture: Picture
    mask: Mask
    decoded: Picture
    side: int


Scene = tuple[int, Picture, Sequence[Mask]]
"""Image id, picture uint8 (H, W, 3) and the masks of its subjects."""


def people_of(source: Source, *, split: Split, most: int | None = None) -> list[Scene]:
    """Return the photographs of a split with the masks of their people; see `annotated_photographs`."""
    scenes = annotated_photographs(source, split=split, most=most)
    return [(image_id, picture, [mask for _, mask in masks]) for image_id, picture, masks in scenes]


def draw_cases(
    photographs: Sequence[Scene],
    *,
    seed: int,
    per_photograph: int = 3,
    most: int = 500,
    audit: bool = True,
    side: int = SIDE,
) -> Cases:
    """Draw what a network is measured on, each subject edited by the very path of a build.

    References are subjects of the other photographs.

    Args:
        photographs: Of one split, two at least.
        seed: Of the choice of subjects and of their edits.
        per_photograph: At most so many subjects of one.
        most: At most so many subjects together.
        audit: Whether to draw null edits and other encodings, sizes and masks, too.
        side: Pixels of the crops.

    Raises:
        ValueError: Fewer than two photographs.
    """
    if len(photographs) < 2:
        raise ValueError(f"photographs must be two at least, got {len(photographs)}")
    rows: list[dict[str, Any]] = []
    number = 0
    for place, (image_id, picture, masks) in enumerate(photographs):
        rng = np.random.default_rng([seed, image_id])
        decoded = decode_jpeg(encode_jpeg(picture))
        for row in rng.permutation(len(masks))[:per_photograph]:
            if number == most:
                break
            references = [_colours(photographs, place, rng) for _ in range(4)]
            target = _Target(number, image_id, picture, masks[int(row)], decoded, side)
            rows += _cases_of(target, references, rng, audit=audit)
            number += 1
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Cases(**{"crops": columns.pop("crop"), **columns})


def _colours(photographs: Sequence[Scene], place: int, rng: np.random.Generator) -> Picture:
    """Return the pixels of a person of another photograph."""
    other = (place + 1 + int(rng.integers(len(photographs) - 1))) % len(photographs)
    _, picture, masks = photographs[other]
    pixels = picture[masks[int(rng.integers(len(masks)))]]
    return np.ascontiguousarray(pixels[:: -(-len(pixels) // 20000)])


def _cases_of(
    target: _Target, references: Sequence[Picture], rng: np.random.Generator, *, audit: bool
) -> Iterator[dict[str, Any]]:
    alpha = feather(target.mask, 1.5)
    natural = _case(target, alpha, target.decoded, "natural", "natural")
    yield natural
    base = None
    for number in range(2):
        recipe = draw_recipe(rng, families=DEFAULT_FAMILIES)
        case, decoded, seen = _measured(target, references[number], recipe, "edit")
        base = base or (decoded, seen)
        yield case
    for family in DEFAULT_FAMILIES:
        yield _measured(target, references[2], draw_recipe(rng, families={family: 1.0}), "family")[0]
    for kind in GROSS:
        edited = gross(target.picture, alpha, references[3], kind, rng)
        yield _judged(target, alpha, edited, "gross", kind, strength=2.0 if kind == "overshot" else 1.0)[0]
    recipe = dataclasses.replace(draw_recipe(rng, families=DEFAULT_FAMILIES), perturb=None, local_angle=None)
    if recipe.family == "perturb":
        recipe = dataclasses.replace(recipe, perturb=draw_recipe(rng, families={"perturb": 1.0}).perturb)
    for strength in RUNGS:
        rung = dataclasses.replace(recipe, strength=strength)
        yield _measured(target, references[0], rung, "ladder")[0]
    if audit and base is not None:
        yield from _null_cases(target, alpha, rng)
        yield from _shifted_cases(target, target.decoded, alpha, "natural")
        yield from _shifted_cases(target, *base, "edit")


def _case(
    target: _Target, alpha: Alpha, decoded: Picture, what: str, name: str, *, strength: float = 0.0
) -> dict[str, Any]:
    return {
        "crop": prepare(decoded, alpha, side=target.side),
        "subject": target.number,
        "image_id": target.image_id,
        "what": what,
        "name": name,
        "strength": strength,
        "mse": 0.0,
        "passes": True,
    }


def _measured(target: _Target, reference: Picture, recipe: Recipe, what: str) -> tuple[dict[str, Any], Picture, Alpha]:
    alpha = feather(target.mask, recipe.feather_px)
    edited = edit_subject(target.picture, alpha, reference, recipe).picture
    return _judged(target, alpha, edited, what, recipe.family, strength=recipe.strength)


def _judged(
    target: _Target, alpha: Alpha, edited: Picture, what: str, name: str, *, strength: float
) -> tuple[dict[str, Any], Picture, Alpha]:
    decoded = decode_jpeg(encode_jpeg(edited))
    mse = foreground_mse(target.decoded, decoded, target.mask)
    x, y, width, height = cv2.boundingRect(alpha)
    box = np.s_[y : y + height, x : x + width]
    gates = measure_gates(*(np.ascontiguousarray(array[box]) for array in (target.picture, edited, alpha)))
    passes = judge_gates({**gates, "effect_small": mse, "effect_large": mse}) is None
    case = _case(target, alpha, decoded, what, name, strength=strength)
    return {**case, "mse": mse, "passes": passes}, decoded, alpha


def _null_cases(target: _Target, alpha: Alpha, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    own = target.picture[target.mask]
    for family in TRANSFERS:
        edited = edit_subject(target.picture, alpha, own, plain_recipe(family, 1.0)).picture
        yield _case(target, alpha, decode_jpeg(encode_jpeg(edited)), "null", family)
    gain, offset = float(rng.uniform(0.7, 1.2)), float(rng.uniform(-20, 20))
    there = np.clip(np.rint(gain * target.picture.astype(np.float32) + offset), 0, 255)
    back = np.clip(np.rint((there - offset) / gain), 0, 255).astype(np.uint8)
    # where the way there clips, nothing comes back: those pixels stay as they were
    lost = ((there <= 0) | (there >= 255)).any(axis=2, keepdims=True)
    inverse = composite(target.picture, np.where(lost, target.picture, back), alpha)
    yield _case(target, alpha, decode_jpeg(encode_jpeg(inverse)), "null", "inverse")
    yield _case(target, alpha, decode_jpeg(encode_jpeg(target.decoded)), "null", "encoded_again")


def _shifted_cases(target: _Target, decoded: Picture, alpha: Alpha, of: str) -> Iterator[dict[str, Any]]:
    for quality in (75, 85, 95):
        yield _case(target, alpha, recompress(decoded, quality), "shift", f"{of}:jpeg_{quality}")
    for scale in (0.75, 1.25):
        picture, mask = (
            np.asarray(cv2.resize(layer, dsize=None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
            for layer in (decoded, alpha)
        )
        yield _case(target, mask, picture, "shift", f"{of}:resized_{scale}")
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    masks = {
        "mask_grown": cv2.dilate(alpha, disc),
        "mask_shrunk": cv2.erode(alpha, disc),
        "mask_blurred": cv2.GaussianBlur(alpha, (0, 0), 2.0),
    }
    for name, layer in masks.items():
        mask = np.asarray(layer, np.uint8)
        if 0 < np.count_nonzero(mask > 127) < mask.size:
            yield _case(target, mask, decoded, "shift", f"{of}:{name}")


def measure_cases(scores: NDArray[np.float64], cases: Cases) -> dict[str, Any]:
    """Measure scores by what is known of the cases: every figure of the model card but audit and speed.

    The band is what passes the closed-form gates. Gross cases count where their foreground MSE is over 2,000, ladders
    where the MSE of their top is at least 400. Calibration is that of naturals and edits in equal shares.
    """
    found = {name: scores[chosen] for name, chosen in group_cases(cases).items()}
    natural, band, gross_ones = found["naturals"], found["band"], found["gross"]
    recall, threshold = recall_at_precision(gross_ones, found["edits"])
    families = {
        name: auroc(natural, scores[(cases.what == "family") & cases.passes & (cases.name == name)])
        for name in DEFAULT_FAMILIES
    }
    times = max(1, round(len(band) / max(len(natural), 1)))
    both = np.concatenate([np.repeat(natural, times), band])
    truth = np.concatenate([np.ones(times * len(natural)), np.zeros(len(band))])
    numbers = {
        "band_auroc": auroc(natural, band),
        "mild_gross_auroc": auroc(found["mild"], gross_ones),
        "mild_passing_gross_auroc": auroc(found["mild"], found["gross_passing"]),
        "natural_gross_auroc": auroc(natural, gross_ones),
        "spearman": _ladder_order(scores, cases),
        "calibration_error": calibration_error(both, truth),
        "recall_at_95": recall,
        "threshold_at_95": threshold,
    }
    return {
        **{name: round(float(value), 4) for name, value in numbers.items()},
        "family_auroc": {name: round(value, 4) for name, value in families.items()},
        "counts": {name: len(values) for name, values in found.items()},
    }


def group_cases(cases: Cases) -> dict[str, NDArray[np.bool_]]:
    """Mark the cases of each group that is measured.

    Returns:
        `naturals`; `band`, edits drawn as a build draws them that pass the closed-form gates; `edits`, those and one of
        each family; `mild`, of these the ones of strength up to 0.5; `gross`, of foreground MSE over 2,000;
        `gross_passing`, of these the ones that the closed-form gates let pass. bool (N,) each.
    """
    edits = np.isin(cases.what, ("edit", "family")) & cases.passes
    gross_ones = (cases.what == "gross") & (cases.mse > GROSS_MSE)
    return {
        "naturals": cases.what == "natural",
        "band": (cases.what == "edit") & cases.passes,
        "edits": edits,
        "mild": edits & (cases.strength <= 0.5),
        "gross": gross_ones,
        "gross_passing": gross_ones & cases.passes,
    }


def _ladder_order(scores: NDArray[np.float64], cases: Cases) -> float:
    """Return the mean rank correlation of falling score and strength within the ladders that go high enough."""
    found = []
    ladder = cases.what == "ladder"
    for subject in np.unique(cases.subject[ladder]):
        rungs = ladder & (cases.subject == subject)
        if cases.mse[rungs].max() >= 400:
            found.append(spearman(-scores[rungs], cases.strength[rungs]))
    return float(np.mean(found)) if found else float("nan")


def audit_cases(
    scores: NDArray[np.float64], cases: Cases, *, maskless: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Make the audit's table of the scores of some cases; `maskless` are those of the crops of `hide_masks`."""
    natural = cases.what == "natural"
    null, shift = cases.what == "null", cases.what == "shift"
    nulls = {str(name): scores[null & (cases.name == name)] for name in np.unique(cases.name[null])}
    first = _first_edits(cases)
    shifts = {}
    for name in np.unique(cases.name[shift]):
        rows = np.flatnonzero(shift & (cases.name == name))
        bases = natural if str(name).startswith("natural") else first
        base = {int(subject): float(score) for subject, score in zip(cases.subject[bases], scores[bases], strict=True)}
        shifts[str(name)] = ([base[int(subject)] for subject in cases.subject[rows]], scores[rows])
    hidden = None if maskless is None else (maskless[natural], maskless[(cases.what == "edit") & cases.passes])
    return audit_scores(scores[natural], nulls, shifts, maskless=hidden)


def _first_edits(cases: Cases) -> NDArray[np.bool_]:
    """Mark the first edit of each subject: the one that `_shifted_cases` looks at otherwise."""
    rows = np.flatnonzero(cases.what == "edit")
    _, first = np.unique(cases.subject[rows], return_index=True)
    marked = np.zeros(len(cases.what), np.bool_)
    marked[rows[first]] = True
    return marked


def hide_masks(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return crops whose mask says the same everywhere."""
    return np.concatenate([crops[..., :3], np.full_like(crops[..., 3:], 128)], axis=3)


def make_checkpoint(
    model: Network,
    *,
    subjects: Sequence[Subject],
    val: Cases,
    test: Cases | None = None,
    audit: Cases | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Calibrate a network and set its threshold on `val`, measure it on `val` and `test`, audit it on `audit`.

    Args:
        model: As trained.
        subjects: What it learnt from.
        val: Of the split `val`.
        test: Of the split `test`.
        audit: Of photographs that it did not learn from, at least 300 subjects; `val` where None.
        settings: Of the training, kept in the checkpoint.
        device: Where it scores the cases.
    """
    logits, groups = score_logits(model, val.crops, device=device), group_cases(val)
    bare = Checkpoint(model, calibrate(logits[groups["naturals"]], logits[groups["band"]]))
    scores = score_crops(bare, val.crops, device=device)
    threshold, precision, recall = choose_threshold(scores[groups["gross"]], scores[groups["edits"]])
    metrics = {"val": {**measure_cases(scores, val), "threshold_precision": precision, "threshold_recall": recall}}
    if test is not None:
        metrics["test"] = measure_cases(score_crops(bare, test.crops, device=device), test)
    audited = val if audit is None else audit
    hidden = score_crops(bare, hide_masks(audited.crops), device=device)
    return dataclasses.replace(
        bare,
        threshold=threshold,
        image_ids=frozenset(subject.image_id for subject in subjects),
        data_digest=digest_of(subjects),
        settings=dict(settings or {}),
        metrics=_without_nan(metrics),
        audit=audit_cases(score_crops(bare, audited.crops, device=device), audited, maskless=hidden),
    )


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures with None where nothing could be measured, as JSON wants it."""
    return {
        name: _without_nan(value) if isinstance(value, Mapping) else None if value != value else value  # noqa: PLR0124
        for name, value in values.items()
    }


def join_cases(*parts: Cases) -> Cases:
    """Put cases of different photographs together; subjects are numbered anew."""
    numbers, first = [], 0
    for part in parts:
        numbers.append(part.subject + first)
        first += int(part.subject.max()) + 1
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return Cases(**{**columns, "subject": np.concatenate(numbers)})
