"""Describe a run in Croissant 1.1 (MLCommons): its files with their hashes, and the index as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa

_TERMS: Final = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
"""The specification's own context, whole: validators compare it."""

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"

_FORMATS: Final = {".tar": "application/x-tar", ".parquet": "application/x-parquet"}


def describe_croissant(
    *,
    name: str,
    manifest: Mapping[str, Any],
    sizes: Mapping[str, int],
    licenses: Sequence[str],
    citation: str | None,
    schema: pa.Schema,
) -> dict[str, Any]:
    """Return the JSON-LD of a run.

    Args:
        name: Of the data set.
        manifest: Of the run.
        sizes: Bytes of the files of the manifest, by path.
        licenses: Addresses of the photographs' licences.
        citation: BibTeX of what the photographs come from.
        schema: Columns of the index.
    """
    counts = manifest["counts"]
    files = [*manifest["shards"], *manifest.get("index", ())]
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": (
            "Triplets for image harmonization: a photograph, a mask of one person in it, and a composite in which that "
            f"person has the colours of another photograph. {counts['planned']} planned = {counts['kept']} kept + "
            f"{counts['rejected']} rejected. The samples are in WebDataset tars."
        ),
        "version": manifest["code"]["hcoco"],
        **({"license": list(licenses)} if licenses else {}),
        **({"citeAs": citation} if citation else {}),
        "keywords": ["image harmonization", "image compositing", "WebDataset"],
        "distribution": [
            *(_file(entry, size=sizes[entry["path"]]) for entry in files),
            *_file_sets({PurePosixPath(entry["path"]).parent.as_posix() for entry in files}),
        ],
        "recordSet": [_record_set(schema)] if len(schema) else [],
    }


def _file(entry: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    path = entry["path"]
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "description": f"{entry['samples']} samples",
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": _FORMATS[PurePosixPath(path).suffix],
        "sha256": entry["sha256"],
    }


def _file_sets(folders: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileSet",
            "@id": folder,
            "name": folder,
            "description": _CONTENTS.get(folder, f"samples in {folder}"),
            "encodingFormat": _FORMATS[".parquet" if folder == "index" else ".tar"],
            "includes": f"{folder}/*{'.parquet' if folder == 'index' else '.tar'}",
        }
        for folder in sorted(folders)
    ]


_CONTENTS: Final[Mapping[str, str]] = {
    "index": "a row for every attempted sample",
    "shards": "kept harmonization samples: composite.jpg, real.jpg, mask.png, json",
    "rejected": "attempted, made and dropped; the same members",
    "fusion": "kept fusion samples: foreground.jpg, background.jpg, composite.jpg, mask.png, alpha.png, json",
    "copypaste": "kept copy-paste pairs: composite.jpg, real.jpg, source.jpg, mask.png, json",
}


def _record_set(schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "Every attempted sample, kept or rejected; tar, offset and size say where its bytes are.",
        "key": {"@id": "samples/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"samples/{column.name}",
                "name": column.name,
                "dataType": _data_type(column.type),
                "source": {"fileSet": {"@id": "index"}, "extract": {"column": column.name}},
            }
            for column in schema
        ],
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Boolean" if pa.types.is_boolean(kind) else "sc:Text"
