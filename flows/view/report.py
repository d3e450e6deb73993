"""Write the report of a run: one page and its small pictures, opened from disk, that asks nobody for anything.

What the page shows is prepared here as plain values; `report.html` only places them, and `report.js` only filters and
enlarges. A gallery of all samples can grow from the same parts: `read_attempts` chooses, `draw_card` draws.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from augment import LIMITS
from flows.store.decisions import read_decisions
from flows.store.layout import Layout, read_json, write_bytes
from flows.store.manifest import read_manifest
from flows.view.attempts import Attempts, Place, read_attempts, read_rows
from flows.view.cards import DASH, MEANINGS, Card, draw_card, tell, tell_score
from flows.view.plots import Group, by_strength, plot_curve, plot_effect, plot_scores, plot_strength

SHOWN: Final = 48
"""Kept samples on the page, and as many rejected ones."""
EXTREMES: Final = 10
"""Samples with the best scores on the page, and as many with the worst."""

_FILTERS: Final = ("status", "reason", "family", "split")
_SPLITS: Final = ("train", "val", "test")
_GATES: Final = (LIMITS["effect_small"], LIMITS["effect_large"])


@dataclass(frozen=True)
class Line:
    """A line of a table: a name, a count, its share of a total (0..1, None without one), and a remark.

    Attributes:
        cells: More cells behind the share, as text.
    """

    name: str
    count: int
    share: float | None
    remark: str = ""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cards:
    """The samples on the page: a draw of all, those with the best scores, and those with the worst."""

    shown: Sequence[Card]
    best: Sequence[Card] = ()
    worst: Sequence[Card] = ()

    @property
    def every(self) -> list[Card]:
        """Return all of them in the order of the page."""
        return [*self.shown, *self.best, *self.worst]


def write_report(layout: Layout) -> Path:
    """Write `report/index.html` of a finished run and the pictures beside it; return the page's path.

    The same run gives the same bytes. The page is written last and whole, so an older one stays usable until then;
    pictures that only the older one showed are removed after it.

    Raises:
        BadRequest: The run is unfinished, or its manifest or index is damaged.
        OSError: The disk is full or not writable.
    """
    manifest = read_manifest(layout)
    attempts = read_attempts(layout, show=SHOWN, extremes=EXTREMES)
    regated = read_decisions(layout).limits.get("unnatural")
    attempts = attempts if regated is None else replace(attempts, threshold=regated)
    licenses = _licenses(layout)
    files: set[str] = set()

    def draw(places: Sequence[Place]) -> list[Card]:
        cards = []
        for row in read_rows(places):
            drawn = draw_card(layout, row, licenses=licenses)
            for path, content in drawn.files.items():
                _write_once(layout.report.parent / path, content)
            cards.append(drawn.card)
            files.update(drawn.files)
        return cards

    cards = Cards(draw(attempts.shown), draw(attempts.best), draw(attempts.worst))
    page = render_page(name=layout.run.name, manifest=manifest, attempts=attempts, cards=cards)
    write_bytes(layout.report, page)
    _remove_others(layout.report.parent / "pictures", {Path(path).name for path in files})
    return layout.report


def render_page(*, name: str, manifest: Mapping[str, Any], attempts: Attempts, cards: Cards) -> bytes:
    """Return the page as UTF-8.

    Args:
        name: Of the run.
        manifest: Of the run.
        attempts: What the index says.
        cards: The samples to show.
    """
    counts, selection = manifest["counts"], manifest["selection"]
    settings = manifest.get("settings") or {}
    groups = _groups(attempts)
    script, style = page_text("report.js"), page_text("report.css")
    curve, chosen = selection.get("curve") or (), _number(settings.get("min_person_share"))
    figures = {
        "curve": plot_curve([(share, images) for share, images in curve], chosen=chosen),
        "effect": plot_effect(groups, gates=_GATES),
        "strength": plot_strength(groups, gates=_GATES),
        **_score_plots(groups, attempts),
    }
    text = (
        page_environment()
        .get_template("report.html")
        .render(
            name=name,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            counts=counts,
            kept_share=_share(counts["kept"], counts["planned"]),
            selection=selection,
            figures={key: svg and Markup(svg) for key, svg in figures.items()},  # noqa: S704 - `plots` escapes
            gates=_GATES,
            gate=_gate(manifest.get("gate"), attempts),
            reasons=_count_lines(counts["by_reason"], counts["planned"]),
            families=_family_lines(counts, groups),
            splits=_split_lines(attempts),
            dropped_people=_count_lines(selection.get("dropped_by_reason"), selection.get("people")),
            dropped_images=_count_lines(selection.get("dropped_images_by_reason"), selection.get("images")),
            settings=[(key, tell(value)) for key, value in settings.items()],
            code=[(key, tell(value)) for key, value in (manifest.get("code") or {}).items()],
            cards=cards.shown,
            best=cards.best,
            worst=cards.worst,
            enlarged=[card.enlarged for card in cards.every],
            choices={field: sorted({getattr(card, field) for card in cards.shown} - {""}) for field in _FILTERS},
        )
    )
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate from a file name must not end the report


def page_environment() -> jinja2.Environment:
    """Return what the templates of the report's kind are rendered with: everything from the run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(page_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": _count, "percent": _percent}
    return environment


def page_text(name: str) -> str:
    """Read a file that stands beside this module."""
    return resources.files("flows.view").joinpath(name).read_text("utf-8")


def _licenses(layout: Layout) -> Mapping[str, Any]:
    """Return the plan's licences by id; none where the plan does not say."""
    try:
        licenses = read_json(layout.plan)["licenses"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return licenses if isinstance(licenses, dict) else {}


def _write_once(path: Path, content: bytes) -> None:
    """Write a picture, or leave it where it stands already."""
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.glob("*"):
        if path.name not in names and path.is_file():
            path.unlink()


def _groups(attempts: Attempts) -> list[Group]:
    groups = []
    for number, family in enumerate(attempts.families):
        mine = attempts.family == number
        columns = (attempts.strength, attempts.effect, attempts.score, attempts.kept)
        groups.append(Group(family, *(column[mine] for column in columns)))
    return groups


def _score_plots(groups: Sequence[Group], attempts: Attempts) -> dict[str, str | None]:
    whole = Group("all", attempts.strength, attempts.effect, attempts.score, attempts.kept)
    asked = {"scores": ("family", groups), "scores_by_strength": ("strength", by_strength(whole))}
    return {key: plot_scores(each, threshold=attempts.threshold, name=name) for key, (name, each) in asked.items()}


def _gate(gate: object, attempts: Attempts) -> dict[str, Any] | None:
    """Return what the page says of the realism gate; None where none looked."""
    known = np.isfinite(attempts.score)
    if not isinstance(gate, Mapping) and not known.any():
        return None
    return {
        "audit": str(gate.get("audit") or "") if isinstance(gate, Mapping) else "",
        "threshold": tell_score(attempts.threshold),
        "scored": int(np.count_nonzero(known)),
        "below": _share_below(attempts, known),
    }


def _share_below(attempts: Attempts, known: NDArray[np.bool_]) -> float | None:
    """Return the share of the scored samples whose score is below the threshold, whatever else they fail."""
    if attempts.threshold is None or not known.any():
        return None
    return float(np.mean(attempts.score[known] < attempts.threshold))


def _count_lines(counts: Mapping[str, int] | None, total: int | None) -> list[Line]:
    """Return counts by reason, the largest first, with their share of a total."""
    ordered = sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))
    return [Line(reason, count, _share(count, total), MEANINGS.get(reason, "")) for reason, count in ordered]


def _family_lines(counts: Mapping[str, Any], groups: Sequence[Group]) -> list[Line]:
    """Return attempts of each family, the share that was kept, and the median effect of all attempts."""
    medians = {group.name: group.median for group in groups}
    lines = []
    for family, sides in counts["by_family"].items():
        kept, planned = sides.get("kept", 0), sum(sides.values())
        cells = (f"{kept:,}", tell(medians.get(str(family))))
        lines.append(Line(str(family), planned, _share(kept, planned), cells=cells))
    return lines


def _split_lines(attempts: Attempts) -> list[Line]:
    """Return attempts of each split, their share of the run, and how many were kept."""
    lines = []
    for split in sorted(attempts.splits, key=lambda name: (_SPLITS.index(name) if name in _SPLITS else 9, name)):
        mine = attempts.split == attempts.splits.index(split)
        kept = int(np.count_nonzero(attempts.kept & mine))
        planned = int(np.count_nonzero(mine))
        lines.append(Line(split, planned, _share(planned, len(mine)), cells=(f"{kept:,}", _percent(kept / planned))))
    return lines


def _number(value: object) -> float | None:
    """Return a setting as a number; None where the manifest holds something else."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e9 else None


def _share(count: int, total: int | None) -> float | None:
    return count / total if total else None


def _count(number: int | None) -> str:
    return DASH if number is None else f"{number:,}"


def _percent(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return DASH
    return f"{share:.1%}" if share < 0.9995 else "100%"
