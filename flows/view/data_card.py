"""Describe a finished run to those who get it: README.md in Hugging Face's form, croissant.json, ATTRIBUTION.csv.

All three are functions of plan, manifest and index; none knows a date or the name of a folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from augment import LIMITS
from flows.errors import BadRequest
from flows.store.cells import harmless_cell
from flows.store.index import read_index
from flows.store.layout import Layout, read_json, write_bytes
from flows.store.manifest import read_places
from flows.store.read import file_sizes
from flows.store.record import FIELDS
from flows.view.cards import MEANINGS, tell, web_link
from flows.view.croissant import describe_croissant
from flows.view.markdown import as_code, as_text

README: Final = "README.md"
CROISSANT: Final = "croissant.json"
ATTRIBUTION: Final = "ATTRIBUTION.csv"

SPLITS: Final = ("train", "val", "test")
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)

COCO_PAPER: Final = """\
@inproceedings{lin2014coco,
  title = {Microsoft {COCO}: Common Objects in Context},
  author = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and
    Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {European Conference on Computer Vision},
  year = {2014}
}"""

_SIZE_CLASSES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_NO_DERIVATIVES: Final = re.compile(r"/by(-nc)?-nd/|NoDeriv", re.IGNORECASE)
_OF_PHOTOGRAPH: Final = ("image_id", "license", "coco_url", "flickr_url")
"""What the index says of a photograph, behind its role."""
_NUMBERS: Final = ("foreground_mse", "psnr", "strength")


@dataclass
class Photograph:
    """A photograph that the run's samples show or take colours from.

    Attributes:
        samples: Attempted samples by the role it has in them (`target`, `reference`, ...).
        kept: Kept ones of them.
    """

    image_id: int
    split: str
    license: int | None
    coco_url: str | None
    flickr_url: str | None
    samples: dict[str, int]
    kept: dict[str, int]


@dataclass(frozen=True)
class License:
    """A licence as the annotation file names it.

    Attributes:
        forbids_derivatives: By its name or address; None where it has neither.
    """

    number: int | None
    name: str
    url: str | None
    forbids_derivatives: bool | None


@dataclass(frozen=True)
class Facts:
    """What the index says of a run, added up.

    Attributes:
        splits: By split: `kept`, `rejected`, and `bytes` and `shards` of the kept ones.
        quantiles: Of the kept samples, by column, at `QUANTILES`.
        photographs: Sorted by id.
        roles: Of photographs, sorted.
    """

    splits: dict[str, dict[str, int]]
    quantiles: dict[str, list[float]]
    photographs: tuple[Photograph, ...]
    roles: tuple[str, ...]


def write_card(layout: Layout) -> list[Path]:
    """Write README.md, croissant.json and ATTRIBUTION.csv into the folder of a finished run; return their paths.

    The same run gives the same bytes.

    Raises:
        BadRequest: The run is unfinished, or its plan, manifest or index is damaged.
        Damaged: A shard of the manifest is missing.
    """
    manifest = read_places(layout)
    licenses = read_licenses(layout)
    facts = gather_facts(layout, manifest)
    name = f"hcoco-{hashlib.sha256(layout.manifest.read_bytes()).hexdigest()[:8]}"
    readme = render_readme(name=name, manifest=manifest, facts=facts, licenses=licenses)
    croissant = describe_croissant(
        name=name,
        manifest=manifest,
        sizes=file_sizes(layout, [each["path"] for each in (*manifest["shards"], *manifest.get("index", ()))]),
        licenses=sorted({url for each in facts.photographs if (url := license_of(each, licenses).url)}),
        citation=_citation(manifest["settings"]),
        schema=_schema(layout, manifest),
    )
    contents = {
        README: readme.encode("utf-8", "backslashreplace"),
        CROISSANT: json.dumps(croissant, indent=2).encode(),
        ATTRIBUTION: write_attribution(facts, licenses),
    }
    for path, content in contents.items():
        write_bytes(layout.run / path, content)
    return [layout.run / path for path in contents]


def read_licenses(layout: Layout) -> dict[int, License]:
    """Return the licences of the annotation files by id, from the plan.

    Raises:
        BadRequest: The plan is damaged.
    """
    try:
        values = read_json(layout.plan)["licenses"]
        return {int(number): _license(int(number), value) for number, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{layout.plan} is damaged ({error}); restore it, or build into another --run") from None


def license_of(photograph: Photograph, licenses: Mapping[int, License]) -> License:
    """Return a photograph's licence; one without name and address where the annotation file has none."""
    number = photograph.license
    unknown = License(number, "unknown" if number is None else f"id {number}", None, None)
    return licenses.get(number, unknown) if number is not None else unknown


def gather_facts(layout: Layout, manifest: Mapping[str, Any]) -> Facts:
    """Read the index file by file and add up.

    Raises:
        BadRequest: A file of the index is damaged.
    """
    splits = {split: {"kept": 0, "rejected": 0, "bytes": 0, "shards": 0} for split in SPLITS}
    numbers: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]] = {name: [] for name in _NUMBERS}
    photographs: dict[int, Photograph] = {}
    for table in _tables(layout, manifest):
        kept = [status == "kept" for status in table["status"].to_pylist()]
        for split, keeps in zip(table["split"].to_pylist(), kept, strict=True):
            splits[split]["kept" if keeps else "rejected"] += 1
        for name, parts in numbers.items():
            parts.append(table.filter(pa.array(kept))[name].drop_null().to_numpy())
        for role in _roles(table):
            _add_photographs(photographs, table, role, kept)
    sizes = file_sizes(layout, [shard["path"] for shard in manifest["shards"]])
    for shard in manifest["shards"]:
        split, folder = Path(shard["path"]).name.partition("-")[0], Path(shard["path"]).parent.name
        if folder != "rejected":
            splits[split]["bytes"] += sizes[shard["path"]]
            splits[split]["shards"] += 1
    found = {name: np.concatenate(parts) for name, parts in numbers.items() if any(len(part) for part in parts)}
    return Facts(
        splits,
        {name: np.quantile(values, QUANTILES).tolist() for name, values in found.items()},
        tuple(photographs[image_id] for image_id in sorted(photographs)),
        tuple(sorted({role for each in photographs.values() for role in each.samples})),
    )


def write_attribution(facts: Facts, licenses: Mapping[int, License]) -> bytes:
    """Return the table of photographs as CSV, UTF-8: who holds what, and in how many samples it is used."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ("image_id", "split", "license", "license_name", "license_url", "no_derivatives", "coco_url", "flickr_url")
    writer.writerow([*fixed, *(harmless_cell(f"{role}_samples") for role in facts.roles)])
    words = {True: "yes", False: "no", None: ""}
    for each in facts.photographs:
        held = license_of(each, licenses)
        terms = (each.license, held.name, held.url, words[held.forbids_derivatives])
        used = (each.samples.get(role, 0) for role in facts.roles)
        links = (web_link(each.coco_url), web_link(each.flickr_url))
        writer.writerow([each.image_id, each.split, *map(harmless_cell, (*terms, *links)), *used])
    return text.getvalue().encode("utf-8", "backslashreplace")


def render_readme(*, name: str, manifest: Mapping[str, Any], facts: Facts, licenses: Mapping[int, License]) -> str:
    """Return the data card as Markdown with Hugging Face's YAML front matter."""
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - Markdown; what comes from outside passes `as_text`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": as_text, "count": lambda value: f"{value:,}", "tell": tell}
    counts, settings = manifest["counts"], manifest["settings"]
    held = _license_lines(facts, licenses)
    template = resources.files("flows.view").joinpath("data_card.md").read_text("utf-8")
    return environment.from_string(template).render(
        name=name,
        counts=counts,
        size_class=next((name for bound, name in _SIZE_CLASSES if counts["kept"] < bound), "n>1M"),
        splits={split: values for split, values in facts.splits.items() if values["kept"] + values["rejected"]},
        citation=_citation(settings),
        features="\n".join(_feature_lines(FIELDS, indent=4)),
        source=_source(settings),
        settings={key: value for key, value in settings.items() if value is not None and key not in _PLACES},
        families=counts["by_family"],
        reasons=counts["by_reason"],
        meanings=MEANINGS,
        limits=LIMITS,
        gate=manifest.get("gate"),
        decisions=manifest.get("decisions") or {},
        quantiles=facts.quantiles,
        quantile_names=[f"{share:.0%}" for share in QUANTILES],
        photographs=len(facts.photographs),
        roles=facts.roles,
        licenses=held,
        forbidding=[line for line in held if line["license"].forbids_derivatives],
        allowed=",".join(str(number) for number, each in sorted(licenses.items()) if not each.forbids_derivatives),
        code=manifest["code"],
    )


_PLACES: Final = frozenset({"source", "images", "annotations", "coco_base", "exclude_ids", "gate_checkpoint"})
"""Settings that are paths or addresses on the machine that built the run."""


def _feature_lines(fields: Mapping[str, pa.DataType | Mapping[str, pa.DataType]], *, indent: int) -> Iterator[str]:
    """Yield fields of the record as Hugging Face's YAML; guessed from a few samples, a null would fix a wrong type."""
    margin = " " * indent
    for name, kind in fields.items():
        yield f"{margin}- name: {name}"
        if isinstance(kind, Mapping):
            yield f"{margin}  struct:"
            yield from _feature_lines(kind, indent=indent + 2)
        else:
            yield f"{margin}  dtype: {'float64' if pa.types.is_floating(kind) else kind}"


def _citation(settings: Mapping[str, Any]) -> str | None:
    """Return COCO's paper for what comes from COCO, or stands in its layout; None for the embedded sample."""
    return None if settings.get("source") == "sample" else COCO_PAPER


def _source(settings: Mapping[str, Any]) -> str:
    source = str(settings.get("source", ""))
    if source == "sample":
        return "the sample that hcoco carries: drawn scenes, and a few free photographs"
    return as_code(source) if re.fullmatch(r"coco:[a-z0-9]{1,20}", source) else "a folder in COCO's layout"


def _license(number: int, value: Mapping[str, Any]) -> License:
    name, url = str(value.get("name") or f"id {number}"), web_link(value.get("url"))
    if url and re.search(r"[\s<>|\"]", url):  # not an address, and Markdown would take it for something else
        url = None
    known = value.get("name") or value.get("url")
    return License(number, name, url, bool(_NO_DERIVATIVES.search(f"{name} {url}")) if known else None)


def _license_lines(facts: Facts, licenses: Mapping[int, License]) -> list[dict[str, Any]]:
    """Return a line a licence: photographs, and kept samples by the photograph's role."""
    lines: dict[int, dict[str, Any]] = {}
    for each in facts.photographs:
        held = license_of(each, licenses)
        empty = {"license": held, "photographs": 0, "kept": dict.fromkeys(facts.roles, 0)}
        line = lines.setdefault(-1 if held.number is None else held.number, empty)
        line["photographs"] += 1
        for role, number in each.kept.items():
            line["kept"][role] += number
    return [lines[number] for number in sorted(lines)]


def _tables(layout: Layout, manifest: Mapping[str, Any]) -> Iterator[pa.Table]:
    for entry in manifest.get("index", ()):
        path = layout.run / entry["path"]
        try:
            table = read_index(path)
            _check_table(table)
            yield table
        except (OSError, pa.ArrowException) as error:
            message = str(error).splitlines()[0]
            raise BadRequest(f"{path} is damaged ({message}); run the same build again to make it anew") from None


def _check_table(table: pa.Table) -> None:
    """Raise ArrowInvalid where a column that the card tells of is missing, or a sample is in no split."""
    needed = ("status", "split", *_NUMBERS, *(f"{role}_{name}" for role in _roles(table) for name in _OF_PHOTOGRAPH))
    if missing := set(needed) - set(table.column_names):
        raise pa.ArrowInvalid(f"it has no column {min(missing)}")
    if strange := set(table["split"].to_pylist()) - set(SPLITS):
        raise pa.ArrowInvalid(f"there is no split {min(strange)[:60]!r}")


def _schema(layout: Layout, manifest: Mapping[str, Any]) -> pa.Schema:
    """Return the columns of the index."""
    files = manifest.get("index", ())  # read before, within bounds, by `gather_facts`
    return pq.read_schema(layout.run / files[0]["path"]) if files else pa.schema([])


def _roles(table: pa.Table) -> list[str]:
    """Return the roles of photographs in a table, whatever its stage calls them."""
    return [name.removesuffix("_image_id") for name in table.column_names if name.endswith("_image_id")]


def _add_photographs(photographs: dict[int, Photograph], table: pa.Table, role: str, kept: Sequence[bool]) -> None:
    columns = [table[f"{role}_{name}"].to_pylist() for name in _OF_PHOTOGRAPH]
    for image_id, number, coco_url, flickr_url, split, keeps in zip(
        *columns, table["split"].to_pylist(), kept, strict=True
    ):
        if image_id is None:
            continue
        each = photographs.setdefault(image_id, Photograph(image_id, split, number, coco_url, flickr_url, {}, {}))
        each.samples[role] = each.samples.get(role, 0) + 1
        each.kept[role] = each.kept.get(role, 0) + keeps
