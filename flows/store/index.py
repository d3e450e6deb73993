"""Read tables of a run, which somebody else may have written: no more memory than such a table needs, known columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.store.layout import is_inside
from flows.store.record import INDEX

MOST_ROWS: Final = 1_000_000
"""Of a table that is read at once; a shard has 100,000 at most."""
MOST_COLUMNS: Final = 1_000
MOST_BYTES: Final = 1_000_000_000
"""Of a table in memory: a few bytes of a file may stand for the same long text in every row."""
_NEVER_NULL: Final = ("key", "split", "status", "tar", "offset", "size")
_DAMAGE: Final = (ValueError, KeyError, TypeError, OverflowError, MemoryError, IndexError)


def read_index(path: Path, *, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """Read a file of the index, checked: the types of the format, no row without key and place, no place elsewhere.

    Args:
        path: Of the file.
        columns: To read; all where not given.
        filters: As `pyarrow.parquet.read_table` takes them; they may ask for other columns.

    Raises:
        OSError, pa.ArrowException: The file is missing, damaged, or no such table.
    """
    table = read_bounded(path, columns=columns if filters is None else None)
    _check_types(table.schema, INDEX)
    for name in _NEVER_NULL:
        if name in table.column_names and table[name].null_count:
            raise pa.ArrowInvalid(f"a row has no {name}")
    if "tar" in table.column_names and not all(map(is_inside, pc.unique(table["tar"]).to_pylist())):
        raise pa.ArrowInvalid("a sample lies outside the run")
    if filters is None:
        return table
    chosen = table.filter(pq.filters_to_expression(filters) if isinstance(filters, list) else filters)
    return chosen if columns is None else chosen.select(list(columns))


def read_bounded(
    path: Path, *, columns: Sequence[str] | None = None, row_group: int | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Read a Parquet file, or a row group of it, unless it would take more memory than a table of a run can.

    Args:
        path: Of the file.
        columns: To read; all where not given.
        row_group: Number of the one to read; all where not given.
        schema: Columns that must be there, with their types.

    Raises:
        OSError, pa.ArrowException: The file is missing, damaged, lacks a column, or is too large.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise pa.ArrowInvalid("it is no plain file")
    try:
        return _read(path, columns, row_group, schema)
    except (OSError, pa.ArrowException):
        raise
    except _DAMAGE as error:  # what pyarrow raises besides its own on forged files
        raise pa.ArrowInvalid(f"it is no table ({type(error).__name__})") from None


def _read(path: Path, columns: Sequence[str] | None, row_group: int | None, schema: pa.Schema | None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        fields = file.schema_arrow
        groups = list(range(file.num_row_groups)) if row_group is None else [row_group]
        _check_claims(file.metadata, groups)
    if len(set(fields.names)) < len(fields.names):
        raise pa.ArrowInvalid("two columns have one name")
    if missing := set(columns or ()) - set(fields.names):
        raise pa.ArrowInvalid(f"it has no column {min(missing)}")
    if schema is not None:
        if missing := set(schema.names) - set(fields.names):
            raise pa.ArrowInvalid(f"it has no column {min(missing)}")
        _check_types(fields, schema)
    names = list(fields.names if columns is None else columns)
    texts = [name for name in names if _is_text(fields.field(name).type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        table = file.read_row_groups(groups, columns=names)
    table.validate(full=True)  # else text that is none is found only where it is used
    if sum(_expanded(table[name]) for name in texts) > MOST_BYTES:
        raise pa.ArrowInvalid("its texts are too large")
    return table.cast(pa.schema([fields.field(name) for name in names]))


def _check_claims(about: pq.FileMetaData, groups: Sequence[int]) -> None:
    parts = [about.row_group(number) for number in groups]
    rows, size = sum(part.num_rows for part in parts), sum(part.total_byte_size for part in parts)
    if not 0 <= rows <= MOST_ROWS or about.num_columns > MOST_COLUMNS or not 0 <= size <= MOST_BYTES:
        raise pa.ArrowInvalid(f"it claims {rows} rows, {about.num_columns} columns and {size} bytes")


def _check_types(found: pa.Schema, wanted: pa.Schema) -> None:
    for field in wanted:
        if field.name in found.names and found.field(field.name).type != field.type:
            raise pa.ArrowInvalid(f"column {field.name} is {found.field(field.name).type}, not {field.type}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _expanded(column: pa.ChunkedArray) -> int:
    """Return the bytes of a column of texts once each row holds its own."""
    total = 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            total += chunk.nbytes
            continue
        lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        places = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        total += int(lengths[places].sum()) if len(places) else 0
    return total
