"""Importing probabilities that were computed elsewhere into a pool."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from encas.data import read_labels
from encas.errors import InvalidInput
from encas.export.source import first_twice
from encas.files import FileModel, parse_model, read_npy
from encas.pool import NAME, Member, Pool, check_labels, check_probs


class MemberCost(FileModel):
    """A row of the table of costs."""

    name: str = Field(pattern=NAME)
    macs: int = Field(ge=0)
    params: int | None = Field(default=None, ge=0)


def import_outputs(
    pool: Path | str,
    probs: Path | str,
    labels: Path | str,
    costs: Path | str,
    *,
    split: str = "val",
    classes: Sequence[str] | None = None,
) -> Pool:
    """Add members by their outputs alone; nothing is written unless everything is as it should be.

    Args:
        pool: Folder; it is made if it does not exist.
        probs: Folder with one `.npy` per member, floating point (n, c), rows that sum to 1.
        labels: (n,) class indices: `.npy`, or text with one number per line.
        costs: CSV with the columns `name`, `macs` and, if wanted, `params`, one row per member.
        split: Name of the split that these samples are.
        classes: Names in the order of the outputs.

    Raises:
        InvalidInput: Says which file is wrong, what was found and what would be right.
    """
    rows = read_costs(Path(costs))
    arrays = _arrays(Path(probs), rows, Path(costs))
    n, n_classes = arrays[0].shape if arrays[0].ndim == 2 else (0, 0)
    known = Pool.open_or_create(pool, classes or n_classes)
    found = check_labels(read_labels(labels), known.n_classes, str(labels))
    for row, array in zip(rows, arrays, strict=True):
        place = str(_file(Path(probs), row))
        if array.ndim == 2 and len(array) != len(found) and len(array) == n:
            raise InvalidInput(
                f"{labels}: {n} labels are needed, one for each row of {place}; found {len(found)}"
            )
        check_probs(array, len(found), known.n_classes, place)
        _check_known(known, row)
    known = known.with_split(split, found)
    for row, array in zip(rows, arrays, strict=True):
        member = Member(name=row.name, source="imported", macs=row.macs, params=row.params)
        known = known.with_outputs(member, split, array, "imported")
    return known


def read_costs(path: Path) -> tuple[MemberCost, ...]:
    """Read a CSV of names, MACs and parameters.

    Raises:
        InvalidInput: No such file, a column is missing, a number is none, or a member stands there twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = list(csv.DictReader(file, skipinitialspace=True))
    except FileNotFoundError:
        raise InvalidInput(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: not a CSV file: {error}") from None
    if not table or not {"name", "macs"} <= set(table[0]):
        raise InvalidInput(f"{path}: a header with the columns name and macs is needed, and rows below it")
    rows = tuple(
        parse_model(
            {key: row[key] for key in ("name", "macs", "params") if row.get(key)},
            MemberCost,
            f"{path}: row {j}",
        )
        for j, row in enumerate(table, 1)
    )
    twice = first_twice([row.name for row in rows])
    if twice is not None:
        raise InvalidInput(f"{path}: member '{twice}' stands there twice; keep one row for each")
    return rows


def _arrays(folder: Path, rows: Sequence[MemberCost], costs: Path) -> list[NDArray[np.floating]]:
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder; one .npy file per member is needed there")
    names = {row.name for row in rows}
    extra = next((file for file in sorted(folder.glob("*.npy")) if file.stem not in names), None)
    if extra is not None:
        raise InvalidInput(f"{costs}: has no row for {extra}; its cost must be known")
    return [read_npy(_file(folder, row), memory_map=True) for row in rows]


def _file(folder: Path, row: MemberCost) -> Path:
    return folder / f"{row.name}.npy"


def _check_known(pool: Pool, row: MemberCost) -> None:
    if row.name in pool.names and pool.member(row.name).source != "imported":
        raise InvalidInput(
            f"{pool.path}: has a member '{row.name}' already, from {pool.member(row.name).source}; "
            "give the new one another name"
        )
