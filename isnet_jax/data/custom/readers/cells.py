"""CSV tables: rows of cells below a header."""

import csv
import io
from pathlib import Path
from typing import Final

from isnet_jax.data.custom.readers.names import normal
from isnet_jax.data.custom.readers.samples import read_text
from isnet_jax.errors import UserError, printable

BLANK: Final = " \t"


def rows_of(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the other rows with their lines; empty ones are passed over.

    Raises:
        UserError: it cannot be read, has no header, or two columns of one name.
    """
    text = read_text(table, "a CSV table")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    shown = printable(table)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(
            f"{shown} line {reader.line_num}: not a CSV table ({error}). "
            'Expected commas between cells, and quotes as in "a, b".'
        ) from error
    for number, row in rows:
        for cell in row:
            bare = cell.strip()
            if len(bare) > 1 and bare[0] == bare[-1] == '"':
                raise UserError(
                    f"{shown} line {number}: a cell has quotes that are no part of it: "
                    f"{printable(bare[:40])}. Put no blanks between commas and quotes."
                )
    if not rows:
        raise UserError(f"{shown} has no rows. Expected a header and rows.")
    header = [normal(cell.strip(BLANK)) for cell in rows[0][1]]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise UserError(f"{shown}: the cells are not separated by commas. Save it with commas.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{shown} has two columns {printable(repr(twice[0]))}. Rename one.")
    return header, rows[1:]
