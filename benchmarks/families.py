"""Compare the families of colour transfer with packages of the field, on the same real people, in one run.

    pip install --no-deps --target build/peers -r benchmarks/requirements.txt
    PYTHONPATH=build/peers python benchmarks/families.py [--coco FOLDER] [--subjects 40] [--rounds 2]

`color-matcher` stands beside `reinhard`, `mkl` and `histogram`, `python-color-transfer` beside `idt`, with regrain.

What each gets. Ours as in production: `edit_subject` on the whole photograph with the subject's feathered alpha and the
reference's pixels, at full strength, without perturbation or local light. The packages know no masks and take
rectangular pictures, so each is run three times: on the two whole photographs, as they are used out of the box; on the
boxes of the two people; and on the people's pixels alone, laid out as a picture of one row. For `idt` those pixels are
then put back into the box and regrained there; for the others, putting them back is left out of the time, as is
blending. Beside that stands our map alone, estimated from and applied to the same pixels. Rounding to 8 bits is timed
for ours only, conversions that a package asks for (floating point for `color-matcher`'s Reinhard, which takes the
logarithm of zero in 8 bits) for neither.

One thread each; the ways alternate, subject by subject and round by round. A time is the process's own (CPU time), the
least of the rounds for each subject (`python-color-transfer`: one round), then the median over the subjects; so is a
property. Properties compare the 8-bit result at the mask's pixels with the reference's pixels; ours is there blended
with a hard mask, so that the soft edge does not blur them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import cv2
import numpy as np
from machine import LIBRARIES, Table, describe
from numpy.typing import NDArray

from augment import TRANSFERS, Recipe, edit_subject, feather
from augment.color import LINEAR_TO_LMS, LOG_LMS_TO_LAB, RGB_TO_YCBCR, decode_srgb, levels_from_floats
from augment.transfer import ColorMap
from augment.transfer.idt import idt
from augment.transfer.reinhard import LIGHT_FLOOR
from flows.coco.masks import decode_mask
from flows.coco.pictures import decode, locate, read_bytes
from flows.make.compose import inside_pixels, person_of
from flows.make.plan import plan_run, read_planned
from flows.settings import parse_settings

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]

FEATHER_PX = 1.5
IDT_ITERATIONS = 15
"""The middle of what production draws, 10 to 20."""
QUANTILES = (np.arange(1000) + 0.5) / 1000


@dataclass(frozen=True)
class Case:
    """A subject and its reference: whole photograph and alphas, the boxes cut out, the pixels gathered."""

    picture: Pixels  # (H, W, 3)
    soft: Pixels  # (H, W), alpha as in production
    hard: Pixels  # (H, W), 0 and 255
    box: Pixels  # (h, w, 3)
    inside: NDArray[np.bool_]  # (h, w)
    pixels: Pixels  # (N, 3)
    reference_picture: Pixels  # (H', W', 3)
    reference_box: Pixels  # (h', w', 3)
    reference: Pixels  # (M, 3)


def read_cases(coco: str, *, subjects: int) -> list[Case]:
    """Take the first people that a plan of this folder pairs."""
    with tempfile.TemporaryDirectory(prefix="hcoco-benchmark-") as folder:
        os.environ["HCOCO_CACHE"] = folder
        planned = plan_run(parse_settings({"source": coco, "output": folder, "run": "run", "samples": subjects}))
        rows = [row for shard in planned.plan.shards for row in read_planned(planned.layout, shard)]
    return [_case(row, planned.plan.roots) for row in rows]


def _case(row: Mapping[str, Any], roots: Mapping[str, str]) -> Case:
    pictures, masks, boxes = [], [], []
    for person in (person_of(row, "target"), person_of(row, "reference")):
        height, width = person["height"], person["width"]
        data = read_bytes(locate(Path(roots[person["subset"]]), person["file_name"]))
        pictures.append(decode(data, width=width, height=height))
        masks.append(decode_mask(person["segmentation"], height=height, width=width))
        x, y, wide, high = cv2.boundingRect(masks[-1].view(np.uint8))
        boxes.append(np.s_[y : y + high, x : x + wide])
    return Case(
        picture=pictures[0],
        soft=feather(masks[0], FEATHER_PX),
        hard=feather(masks[0], 0.0),
        box=np.ascontiguousarray(pictures[0][boxes[0]]),
        inside=masks[0][boxes[0]],
        pixels=inside_pixels(pictures[0], masks[0]),
        reference_picture=pictures[1],
        reference_box=np.ascontiguousarray(pictures[1][boxes[1]]),
        reference=inside_pixels(pictures[1], masks[1]),
    )


# Ours.


def edit(case: Case, *, family: str, alpha: Pixels) -> Pixels:
    """Edit a subject as production does, at full strength; return the photograph."""
    recipe = Recipe(family, 1.0, FEATHER_PX, *[None] * 7)
    if family == "idt":
        recipe = dataclasses.replace(recipe, idt_rotation=0, idt_iterations=IDT_ITERATIONS)
    return edit_subject(case.picture, alpha, case.reference, recipe).picture


def estimate(case: Case, *, family: str) -> ColorMap:
    """Estimate a family's map."""
    if family == "idt":
        return idt(case.pixels, case.reference, rotation=0, iterations=IDT_ITERATIONS)
    return TRANSFERS[family](case.pixels, case.reference)


def map_pixels(case: Case, *, family: str) -> Pixels:
    """Estimate a family's map and apply it to the subject's pixels, without any picture; uint8 (N, 3)."""
    return levels_from_floats(estimate(case, family=family).apply(case.pixels))


# The packages. Each way is a pair: what is prepared before the clock starts, and what is timed.

Ready = tuple[Any, Any]
COLOR_MATCHER = {"reinhard": "reinhard", "mkl": "mkl", "histogram": "hm"}


def photographs_of(case: Case, dtype: type) -> Ready:
    """Return the two whole photographs."""
    return case.picture.astype(dtype), case.reference_picture.astype(dtype)


def boxes_of(case: Case, dtype: type) -> Ready:
    """Return the boxes of the two people as pictures."""
    return case.box.astype(dtype), case.reference_box.astype(dtype)


def rows_of(case: Case, dtype: type) -> Ready:
    """Return the pixels of the two people as pictures of one row."""
    return case.pixels[None].astype(dtype), case.reference[None].astype(dtype)


def match_colors(ready: Ready, *, family: str) -> Any:
    """Run `color-matcher`."""
    matcher = importlib.import_module("color_matcher").ColorMatcher()
    return matcher.transfer(src=ready[0], ref=ready[1], method=COLOR_MATCHER[family])


def transfer_pdf(ready: Ready, *, regrain: bool) -> Any:
    """Run `python-color-transfer`."""
    transfer = importlib.import_module("python_color_transfer.color_transfer").ColorTransfer()
    return transfer.pdf_transfer(img_arr_in=ready[0], img_arr_ref=ready[1], regrain=regrain)


def transfer_pdf_in_box(ready: Ready, case: Case) -> Any:
    """Run `python-color-transfer` on the pixels alone, put them back into the box, and regrain there."""
    transfer = importlib.import_module("python_color_transfer.color_transfer").ColorTransfer()
    moved = transfer.pdf_transfer(img_arr_in=ready[0], img_arr_ref=ready[1], regrain=False)
    edited = case.box.copy()
    edited[case.inside] = moved[0]
    return transfer.RG.regrain(img_arr_in=case.box, img_arr_col=edited)


# Properties: of result and reference pixels, uint8 (N, 3) and (M, 3).


def moment_errors(result: Values, wanted: Values) -> tuple[float, float]:
    """Return how far mean and spread are off, as shares of the wanted spread, averaged over the channels."""
    spread = wanted.std(axis=0)
    mean_error = np.abs(result.mean(axis=0) - wanted.mean(axis=0)) / spread
    return float(mean_error.mean()), float(np.abs(result.std(axis=0) / spread - 1).mean())


def lab_of_light(pixels: Pixels) -> Values:
    """Return l-alpha-beta as ours takes it: the logarithm of linear light."""
    lms = decode_srgb(pixels.astype(np.float64)) @ LINEAR_TO_LMS.T + LIGHT_FLOOR
    return np.asarray(np.log(lms) @ LOG_LMS_TO_LAB.T)


def lab_of_levels(pixels: Pixels) -> Values:
    """Return l-alpha-beta as `color-matcher` takes it: the logarithm of encoded levels, zeros replaced."""
    lms = np.maximum(pixels, 1 / 255) @ importlib.import_module("color_matcher.reinhard_matcher").LMS_MAT.T
    return np.asarray(np.log10(lms) @ LOG_LMS_TO_LAB.T)


def covariance_errors(result: Pixels, wanted: Pixels) -> tuple[float, float]:
    """Return the distance of the means in levels, and that of the covariances (Frobenius) as a share of the wanted."""
    shift = float(np.linalg.norm(result.mean(axis=0) - wanted.mean(axis=0)))
    covariance = np.cov(wanted.T)
    return shift, float(np.linalg.norm(np.cov(result.T) - covariance) / np.linalg.norm(covariance))


def kolmogorov_smirnov(result: Values, wanted: Values) -> float:
    """Return the largest difference of the cumulative distributions, averaged over the channels."""
    distances = []
    for own, other in zip(result.T, wanted.T, strict=True):
        places = np.unique(np.concatenate([own, other]))
        ranks = [np.searchsorted(np.sort(side), places, side="right") / len(side) for side in (own, other)]
        distances.append(float(np.abs(ranks[0] - ranks[1]).max()))
    return statistics.mean(distances)


def ycbcr(pixels: Pixels) -> Values:
    """Return YCbCr, float64."""
    return np.asarray(pixels @ RGB_TO_YCBCR[:, :3].T)


def sliced_wasserstein(result: Pixels, wanted: Pixels) -> float:
    """Return the mean over 64 evenly spread directions of the Wasserstein-1 distance along each, in levels."""
    height = (np.arange(64) + 0.5) / 64  # a half sphere is enough; golden angle between neighbours
    turn = np.pi * (1 + 5**0.5) * np.arange(64)
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), height])
    quantiles = [np.quantile(side @ directions, QUANTILES, axis=0) for side in (result, wanted)]
    return float(np.abs(quantiles[0] - quantiles[1]).mean())


# Measuring.

FAMILIES = ("reinhard", "mkl", "histogram", "idt", "luminance_cct")
WAYS = ("edit", "whole", "box", "pixels", "map")
SLOW = {"idt": ("whole", "box", "pixels")}
"""What takes up to seconds a subject is timed in the first round only."""


def ways_of(case: Case, family: str) -> dict[str, Callable[[], Any]]:
    """Return what is timed for a subject, by the way's name; the preparations are made now."""
    ways: dict[str, Callable[[], Any]] = {
        "edit": lambda: edit(case, family=family, alpha=case.soft),
        "map": lambda: map_pixels(case, family=family),
    }
    if family in COLOR_MATCHER:
        dtype = np.float64 if family == "reinhard" else np.uint8
        whole, box, row = photographs_of(case, dtype), boxes_of(case, dtype), rows_of(case, dtype)
        ways["whole"] = lambda: match_colors(whole, family=family)
        ways["box"] = lambda: match_colors(box, family=family)
        ways["pixels"] = lambda: match_colors(row, family=family)
    if family == "idt":
        whole, box, row = photographs_of(case, np.uint8), boxes_of(case, np.uint8), rows_of(case, np.uint8)
        ways["whole"] = lambda: transfer_pdf(whole, regrain=True)
        ways["box"] = lambda: transfer_pdf(box, regrain=True)
        ways["pixels"] = lambda: transfer_pdf_in_box(row, case)
    return ways


def measure_times(cases: Sequence[Case], *, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return the least CPU milliseconds of the rounds, for each family and way a list over the subjects."""
    times: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        for family in FAMILIES:
            least: dict[str, float] = {}
            for number in range(rounds):
                ways = ways_of(case, family)
                for way in WAYS:
                    if way not in ways or (number and way in SLOW.get(family, ())):
                        continue
                    began = time.process_time()
                    ways[way]()
                    spent = 1e3 * (time.process_time() - began)
                    least[way] = min(spent, least.get(way, spent))
            for way, spent in least.items():
                times.setdefault((family, way), []).append(spent)
    return times


def results_of(case: Case, family: str) -> dict[str, Pixels]:
    """Return the subject's pixels, uint8 (N, 3), as each way leaves them; `map` is ours before regrain, if any."""
    ways = ways_of(case, family)
    result = {"map": ways["map"](), "edit": edit(case, family=family, alpha=case.hard)[case.hard > 0]}
    box, pixels = (np.clip(np.rint(ways[way]()), 0, 255).astype(np.uint8) for way in ("box", "pixels"))
    result |= {"box": box[case.inside], "pixels": pixels[case.inside] if family == "idt" else pixels[0]}
    if family == "idt":
        result["pixels, no regrain"] = transfer_pdf(rows_of(case, np.uint8), regrain=False)[0]
    return result


def properties_of(result: Pixels, wanted: Pixels, family: str) -> dict[str, float]:
    """Return a family's defining properties, by name; 0 is perfect."""
    if family == "idt":
        return {"sliced Wasserstein-1, levels": sliced_wasserstein(result, wanted)}
    if family == "mkl":
        mean, covariance = covariance_errors(result, wanted)
        return {"mean off, levels": mean, "covariance off, share": covariance}
    if family == "histogram":
        return {
            "Kolmogorov-Smirnov, YCbCr": kolmogorov_smirnov(ycbcr(result), ycbcr(wanted)),
            "Kolmogorov-Smirnov, RGB": kolmogorov_smirnov(result.astype(float), wanted.astype(float)),
        }
    spaces: dict[str, Callable[[Pixels], Values]] = {
        "l-alpha-beta of light (ours)": lab_of_light,
        "l-alpha-beta of levels (color-matcher's)": lab_of_levels,
        "RGB": lambda pixels: pixels.astype(np.float64),
    }
    found: dict[str, float] = {}
    for name, space in spaces.items():
        mean, spread = moment_errors(space(result), space(wanted))
        found |= {f"mean off, spreads, {name}": mean, f"spread off, share, {name}": spread}
    return found


def property_table(cases: Sequence[Case]) -> tuple[Table, str]:
    """Measure the properties of all ways, over all subjects and over those whose gain was not limited."""
    columns = {
        "edit": "ours",
        "pixels": "the package on the pixels",
        "box": "the package on the boxes",
        "unlimited": "ours, gain not limited",
        "unlimited pixels": "the package on the pixels of those",
    }
    table = Table(["family", "property", "unedited", *columns.values()])
    limited_counts = []
    for family in ("reinhard", "mkl", "histogram", "idt"):
        found: dict[tuple[str, str], list[float]] = {}
        limited = 0
        for case in cases:
            free = not estimate(case, family=family).notes.get("gain_limited", False)
            limited += not free
            results = results_of(case, family) | {"unedited": case.pixels}
            if free:
                results |= {"unlimited": results["edit"], "unlimited pixels": results["pixels"]}
            for way, pixels in results.items():
                for name, value in properties_of(pixels, case.reference, family).items():
                    found.setdefault((way, name), []).append(value)
        limited_counts.append(f"{family} {limited}")
        for name in properties_of(cases[0].pixels, cases[0].reference, family):
            label = f"{name}, regrained" if family == "idt" else name
            table.add(family, label, *(_middle(found, way, name) for way in ("unedited", *columns)))
            if family == "idt":
                ways = ("unedited", "map", "pixels, no regrain", "", "", "")
                table.add(family, f"{name}, before regrain", *(_middle(found, way, name) for way in ways))
    return table, ", ".join(limited_counts)


def _middle(found: Mapping[tuple[str, str], Sequence[float]], way: str, name: str) -> str:
    values = found.get((way, name))
    return f"{statistics.median(values):.3f}" if values else ""


def time_table(times: Mapping[tuple[str, str], Sequence[float]]) -> Table:
    """Tabulate the medians and their ratios."""
    table = Table(
        [
            "family",
            "ours, ms",
            *("package on photographs, ms", "ratio", "on boxes, ms", "ratio", "on pixels, ms", "ratio"),
            *("our map alone, ms", "package on pixels to our map"),
        ]
    )
    for family in FAMILIES:
        middle = {way: statistics.median(times[family, way]) for way in WAYS if (family, way) in times}
        peers = [way for way in ("whole", "box", "pixels") if way in middle]
        compared = [cell for way in peers for cell in (f"{middle[way]:.2f}", f"{middle[way] / middle['edit']:.1f}")]
        to_map = f"{middle['pixels'] / middle['map']:.1f}" if peers else ""
        table.add(family, f"{middle['edit']:.2f}", *(compared or [""] * 6), f"{middle['map']:.2f}", to_map)
    return table


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", default=os.environ.get("HCOCO_TEST_COCO", "../shared/coco"))
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    cases = read_cases(given.coco, subjects=given.subjects)
    times = measure_times(cases, rounds=given.rounds)
    properties, limited = property_table(cases)
    sizes = [statistics.median(sizes) for sizes in ([len(c.pixels) for c in cases], [c.inside.size for c in cases])]
    print(f"{describe(libraries=(*LIBRARIES, 'color-matcher', 'python-color-transfer'))}\n")
    print(
        f"{len(cases)} subjects of {sizes[0]:,.0f} pixels in boxes of {sizes[1]:,.0f} (medians), CPU time, one thread.\n"
    )
    print(f"{time_table(times).markdown()}\n\n{properties.markdown()}\n")
    print(f"Subjects whose map met its limit of gain, by intention less than a full match: {limited}.")


if __name__ == "__main__":
    main()
