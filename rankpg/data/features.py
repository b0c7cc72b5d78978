"""Features of contexts and items from the columns of a table: numbers, categories, embeddings."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rankpg._utils.documents import parse_json
from rankpg.data.arrow import decoded
from rankpg.data.faults import in_one_line
from rankpg.data.files import Table
from rankpg.data.frame import Frame, frame_of, kind_of
from rankpg.data.ids import TableError
from rankpg.data.optional import arrow
from rankpg.data.ratings_table import unusable
from rankpg.errors import DataWarning

__all__ = ["Features", "Featurizer", "column_names", "standardised", "suggestion", "vectors"]


def vectors(frame: Frame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings [n, G] and bool[n], True for a row without an embedding, which has zeros.

    Raises:
      TableError: the column is missing, holds no vectors, or vectors of different lengths or with a number
        that is not finite.
    """
    column = frame.columns.get(name)
    if column is None or isinstance(column, np.ndarray):
        values, missing = _stacked(frame, frame.array(name), name)
    else:
        values, missing = _flattened(frame, decoded(column), name)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, place = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
        raise TableError(
            f"{frame.where(row, name)}: number {place} of the vector is {values[row, place]}: "
            "put a finite number there"
        )
    return values, missing


def _stacked(frame: Frame, column: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings from a matrix, or from a list of lists some of which are missing."""
    missing = np.zeros(len(column), bool)
    if column.dtype == object and column.ndim == 1:
        missing = np.array([row is None for row in column], bool)
        rows = [np.asarray(row) for row in column[~missing]]
        _same_width(frame, np.array([row.size for row in rows]), np.flatnonzero(~missing), name)
        known = np.stack(rows) if rows else np.zeros((0, 0))
    else:
        known = column
    if known.ndim != 2 or known.dtype.kind not in "fiub" or not known.shape[1]:
        raise TableError(
            f"{frame.source}: column {name!r} is not a column of vectors: {kind_of(known)}"
        )
    return _spread(known, missing), missing


def _flattened(frame: Frame, column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings from a column of Arrow lists, without Python lists in between."""
    pyarrow, compute = arrow("pyarrow"), arrow("pyarrow.compute")
    types = pyarrow.types
    if not (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or types.is_fixed_size_list(column.type)
    ):
        raise TableError(
            f"{frame.source}: column {name!r} is not a column of vectors: {column.type}"
        )
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    missing = np.asarray(lengths != lengths)
    width = _same_width(frame, lengths[~missing], np.flatnonzero(~missing), name)
    flat = compute.list_flatten(column)
    if not (types.is_floating(flat.type) or types.is_integer(flat.type)):
        raise TableError(
            f"{frame.source}: column {name!r} is not a column of vectors of numbers: {column.type}"
        )
    known = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return _spread(known, missing), missing


def _same_width(frame: Frame, lengths: np.ndarray, rows: np.ndarray, name: str) -> int:
    """Returns the length that all vectors have."""
    if not len(lengths) or not lengths[0]:
        raise TableError(
            f"{frame.source}: column {name!r} has no vectors, or an empty one: give "
            "every row at least one number"
        )
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        raise TableError(
            f"{frame.where(int(rows[other[0]]), name)}: a vector of {int(lengths[other[0]])} numbers; the "
            f"first has {int(lengths[0])}, and all must have as many"
        )
    return int(lengths[0])


def _spread(known: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Puts rows in their places and zeros where a row is missing."""
    if not missing.any():
        return known
    rows = np.zeros((len(missing), known.shape[1]), known.dtype)
    rows[~missing] = known
    return rows


if TYPE_CHECKING:
    MissingFeature = Literal["error", "indicate"]
    Scale = Literal["unit", "none"]
else:  # checked here, with messages of our own
    MissingFeature = Scale = Any

_COLUMNS = ("numeric", "categorical", "embedding")


@dataclass(frozen=True)
class Features:
    """Declaration of the columns of a table that are features, by kind.

    Args:
      numeric: standardised, (x - mean) / deviation, with the mean and the deviation of the table that was
        fitted. A column that is constant there becomes 0.
      categorical: hashed into `buckets` numbers that all these columns share: category c of column k adds
        sign(k, c) to number bucket(k, c) (signed feature hashing: Weinberger et al. 2009, "Feature Hashing
        for Large Scale Multitask Learning"). So a category that appears later has its place already.
      embedding: vectors, unchanged.
      buckets: number of features that the categorical columns share.
      id: the column of ids; found by its name if None.
      missing: `error` rejects a missing value; `indicate` replaces a number by the mean and a vector by zeros
        and adds a feature that is 1 where the value was missing; a missing category is a category.
      scale: `unit` divides all features by one number, so that the rows of the fitted table have a root mean
        square length of 1, which towers of perceptrons expect; `none` keeps them (adapters, given towers).

    Raises:
      TableError: a column is declared twice, or an option has an unknown value.

    >>> Features(numeric=["price"]).fit({"id": [7, 8], "price": [1.0, 3.0]}).transform({"price": [5.0]})
    array([[3.]], dtype=float32)
    """

    numeric: Sequence[str] = ()
    categorical: Sequence[str] = ()
    embedding: Sequence[str] = ()
    buckets: int = 64
    id: str | None = None
    missing: MissingFeature = "error"
    scale: Scale = "unit"

    def __post_init__(self) -> None:
        for kind in _COLUMNS:
            names = getattr(self, kind)
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise TableError(f"Features: {kind}={names!r}; expected a list of column names")
            object.__setattr__(self, kind, tuple(names))
        every = self.columns
        for name in (*every, self.id):
            if every.count(name) > 1 or (name == self.id and name in every):
                raise TableError(f"Features: column {name!r} is declared twice; expected once")
        if not isinstance(self.buckets, int) or not 1 <= self.buckets <= 2**20:
            raise TableError(f"Features: buckets={self.buckets!r}; expected 1 to {2**20}")
        for name, known in (("missing", ("error", "indicate")), ("scale", ("unit", "none"))):
            if getattr(self, name) not in known:
                raise TableError(
                    f"Features: {name}={getattr(self, name)!r}; expected {' or '.join(known)}"
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that become features."""
        return (*self.numeric, *self.categorical, *self.embedding)

    def fit(self, table: Table, source: str = "table") -> Featurizer:
        """Fits means, deviations and the scale to a table.

        Args:
          table: as for `data.frame.frame_of`.
          source: the name of the table in messages.

        Raises:
          TableError: a column is missing, is of another kind, or has no value.
        """
        frame = frame_of(table, source)
        means, deviations = [], []
        for name in self.numeric:
            known = frame.numbers(name)
            known = known[~np.isnan(known)]
            if not len(known):
                raise TableError(
                    f"{frame.source}: column {name!r} has no number: give at least one, or drop the column"
                )
            means.append(float(np.mean(known)))
            deviations.append(float(np.std(known)) if np.ptp(known) else 0.0)
        widths = tuple(int(vectors(frame, name)[0].shape[1]) for name in self.embedding)
        fitted = Featurizer(self, tuple(means), tuple(deviations), widths, 1.0)
        if self.scale == "none" or not self.columns:
            return fitted
        rows = fitted.transform(frame).astype(np.float64)
        length = float(np.sqrt(np.mean(np.sum(rows * rows, axis=1))))
        return replace(fitted, scale=length or 1.0)


@dataclass(frozen=True)
class Featurizer:
    """Fitted features; a row is transformed to the same numbers whatever the other rows are."""

    features: Features
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    widths: tuple[int, ...]
    """Widths of the embedding columns."""
    scale: float
    """Divisor of all features."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in their order.

        >>> Features(numeric=["price"], categorical=["brand"], buckets=2, missing="indicate").fit(
        ...     {"price": [1, 2], "brand": ["a", "b"]}
        ... ).names
        ('price', 'price is missing', 'categories 0', 'categories 1')
        """
        declared, indicate = self.features, self.features.missing == "indicate"
        found = list(declared.numeric)
        found += [f"{name} is missing" for name in declared.numeric if indicate]
        if declared.categorical:
            found += [f"categories {bucket}" for bucket in range(declared.buckets)]
        for name, width in zip(declared.embedding, self.widths, strict=True):
            found += [f"{name}[{place}]" for place in range(width)]
            found += [f"{name} is missing"] if indicate else []
        return tuple(found)

    def transform(self, table: Table, source: str = "table") -> np.ndarray:
        """Returns the features of every row of a table, float32[n, F].

        Raises:
          TableError: a column or a value is missing, is of another kind, or is not finite.
        """
        frame = frame_of(table, source)
        parts = [*self._numeric(frame), *self._categorical(frame), *self._embedding(frame)]
        rows = np.empty((len(frame), len(self.names)), np.float32)
        start = 0
        for part in parts:
            rows[:, start : start + part.shape[1]] = part / self.scale
            start += part.shape[1]
        wrong = unusable(rows)
        if wrong.any():
            row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
            raise TableError(
                f"{frame.where(row, self.names[column])}: the feature is not a finite float32: "
                "correct the value, which may be far from all values of the fitted table"
            )
        return rows

    def _numeric(self, frame: Frame) -> list[np.ndarray]:
        columns, missing = [], []
        for name, mean, deviation in zip(
            self.features.numeric, self.means, self.deviations, strict=True
        ):
            numbers = frame.numbers(name)
            missing.append(np.isnan(numbers))
            self._check_missing(frame, name, missing[-1])
            with np.errstate(over="ignore"):  # rejected above, with its row
                scaled = (numbers - mean) / deviation if deviation else 0 * numbers
            columns.append(np.where(missing[-1], 0, scaled)[:, None])
        indicate = self.features.missing == "indicate"
        return columns + [gone[:, None].astype(np.float64) for gone in missing if indicate]

    def _categorical(self, frame: Frame) -> list[np.ndarray]:
        names, buckets = self.features.categorical, self.features.buckets
        if not names:
            return []
        rows = np.zeros((len(frame), buckets), np.float32)
        for name in names:
            categories = frame.categories(name)
            self._check_missing(
                frame, name, np.array([category is None for category in categories])
            )
            places = {category: _place(name, category, buckets) for category in set(categories)}
            found = np.array([places[category] for category in categories])
            rows[np.arange(len(frame)), found[:, 0]] += found[:, 1]
        return [rows]

    def _embedding(self, frame: Frame) -> list[np.ndarray]:
        parts = []
        for name, width in zip(self.features.embedding, self.widths, strict=True):
            values, missing = vectors(frame, name)
            if values.shape[1] != width:
                raise TableError(
                    f"{frame.source}: column {name!r} holds vectors of {values.shape[1]} numbers; expected "
                    f"{width}, as in the fitted table"
                )
            self._check_missing(frame, name, missing)
            parts.append(values)
            if self.features.missing == "indicate":
                parts.append(missing[:, None].astype(np.float32))
        return parts

    def _check_missing(self, frame: Frame, name: str, missing: np.ndarray) -> None:
        if self.features.missing == "error" and missing.any():
            raise TableError(
                f"{frame.where(int(np.argmax(missing)), name)}: the value is missing ({int(missing.sum())} "
                'rows lack it): fill it in, or declare Features(missing="indicate")'
            )

    def to_json(self) -> str:
        """Returns the featurizer as JSON, from which `from_json` returns an equal one."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str = "featurizer") -> Featurizer:
        """Returns the featurizer that `to_json` saved.

        Raises:
          TableError: the text is not a saved featurizer.
        """
        try:
            held = parse_json(text, source)
            declared: dict[str, Any] = {f.name: held["features"][f.name] for f in fields(Features)}
            for kind in _COLUMNS:
                declared[kind] = _strings(declared[kind])
            found = cls(
                Features(**declared),
                tuple(map(_number, held["means"])),
                tuple(map(_number, held["deviations"])),
                tuple(map(int, held["widths"])),
                _number(held["scale"]),
            )
            counts = len(found.means), len(found.deviations), len(found.widths)
            wanted = found.features
            if counts != (len(wanted.numeric),) * 2 + (len(wanted.embedding),) or not found.scale:
                raise ValueError("expected one mean, deviation or width per column")
            return found
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise TableError(f"{source}: not a saved featurizer: {in_one_line(cause)}") from None


def _strings(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{names!r}; expected a list of column names")
    return tuple(names)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{value!r}; expected a finite number")
    return float(value)


def _place(column: str, category: str | None, buckets: int) -> tuple[int, int]:
    """Returns (bucket, sign) of a category, from a hash that is the same on every machine."""
    text = column if category is None else f"{column}\0{category}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return (number >> 1) % buckets, 1 if number & 1 else -1


def suggestion(frame: Frame, id_column: str) -> str:
    """Returns a declaration of all columns of a table by kind, for a message that suggests one."""
    kinds: Mapping[str, list[str]] = {kind: [] for kind in _COLUMNS}
    for name in frame.columns:
        if name != id_column:
            kinds[_kind(frame, name)].append(name)
    declared = [f"{kind}={names}" for kind, names in kinds.items() if names]
    return f"Features({', '.join(declared)})"


def _kind(frame: Frame, name: str) -> str:
    for kind, read in (("embedding", vectors), ("numeric", Frame.numbers)):
        try:
            read(frame, name)
            return kind
        except TableError:
            pass
    return "categorical"


# --- arrays on a raw scale -------------------------------------------------------------------------

LARGEST_FEATURE = 100.0
"""Features beyond it ruin training: they outweigh all others, and the gradient overflows."""


def column_names(width: int) -> list[str]:
    """Returns the names of the columns of an array: feature 0, feature 1, ..."""
    return [f"feature {i}" for i in range(width)]


def standardised(rows: np.ndarray, name: str) -> tuple[np.ndarray, Featurizer | None]:
    """Returns features whose columns on a raw scale are standardised, (x - mean) / deviation.

    Args:
      rows: float32[n, F], finite.
      name: the argument, for the warning.

    Returns:
      The features, and a featurizer that does the same to later rows; None where no column is beyond 100.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True):
    ...     warnings.simplefilter("always")
    ...     rows, featurizer = standardised(np.array([[1, 1e9], [2, 3e9]], np.float32), "context_features")
    >>> rows.tolist()
    [[1.0, -1.0], [2.0, 1.0]]
    """
    largest = np.abs(rows).max(axis=0)
    raw = largest > LARGEST_FEATURE
    if not raw.any():
        return rows, None
    wide = rows.astype(np.float64)
    means = np.where(raw, wide.mean(axis=0), 0.0)
    deviations = np.where(raw, np.where(np.ptp(wide, axis=0) > 0, wide.std(axis=0), 0.0), 1.0)
    declared = Features(numeric=column_names(rows.shape[1]), scale="none")
    fitted = Featurizer(declared, tuple(means.tolist()), tuple(deviations.tolist()), (), 1.0)
    first = int(np.argmax(largest))
    warnings.warn(
        f"{name}: column {first} (counted from 0) has the scale {largest[first]:.3g}, and {int(raw.sum())} "
        f"of {len(raw)} columns have values beyond {LARGEST_FEATURE:g}, which ruin training; they are "
        "standardised, (x - mean) / deviation. Scale them yourself to choose otherwise",
        DataWarning,
        stacklevel=4,
    )
    columns = dict(zip(declared.numeric, wide.T, strict=True))
    return fitted.transform(columns), fitted
