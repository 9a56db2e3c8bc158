"""The examples that benchmarks run on: synthetic ones in the Criteo layout, and the flights.

Ids are drawn from a truncated Zipf law, as ids on the web are: a few are in most rows, most are seen once.
Everything follows from the seed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

Ids = npt.NDArray[np.int64]

INTEGERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = INTEGERS + CATEGORIES

# Where what is made on first use is kept.
FOLDER = Path(tempfile.gettempdir()) / "onstream-bench"

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.parquet"
FLIGHT_IDS = (
    *("carrier", "flight", "tailnum", "origin", "dest", "route"),
    *("date", "month", "weekday", "hour", "sched_arr_time"),
)
FLIGHT_NUMBERS = (
    "distance",
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)

# Of the hidden model: the rate of positive labels, the spread of the weights, and of the noise on the logit.
BASE_RATE = 0.25
WEIGHT_SPREAD = 0.35
NOISE_SPREAD = 0.5
CALIBRATION_ROWS = 20_000


# ----------------------------------------------------------------------------------------------- ids


def zipf_ids(
    rows: int, columns: int = 39, exponent: float = 1.2, vocabulary: int = 1_000_000, seed: int = 0
) -> Ids:
    """Draw ids from Zipf's law cut off at `vocabulary`: int64 (rows, columns), 0 the most frequent.

    The same number in two columns is two different ids; see `keys` and `dense`.
    """
    shares = np.cumsum(np.arange(1, vocabulary + 1, dtype=np.float64) ** -exponent)
    draws = np.random.default_rng(seed).random((rows, columns)) * shares[-1]
    # Sorted look-ups stay in cache, which makes the search many times faster.
    order = np.argsort(draws, axis=None)
    ids = np.empty(draws.size, np.int64)
    ids[order] = np.searchsorted(shares, draws.ravel()[order], side="right")
    return ids.reshape(rows, columns)


def keys(ids: Ids) -> npt.NDArray[np.uint64]:
    """Return one 64-bit key for each id, different from column to column and spread like a hash."""
    column = np.arange(1, ids.shape[1] + 1, dtype=np.uint64) << np.uint64(40)
    return mixed(ids.astype(np.uint64) | column)


def numbered(ids: Ids, vocabulary: int = 1_000_000) -> Ids:
    """Return the ids as numbers below `vocabulary`, as one hashes them for a table of fixed size; int64.

    The same id in two columns is two numbers, and frequent ones are no neighbours.
    """
    return (keys(ids) % np.uint64(vocabulary)).astype(np.int64)


def candidates(requests: int, rows: int) -> list[Ids]:
    """Return the ids that some requests ask for: int64 (rows, columns) each, as those of `numbered_file`."""
    return np.split(numbered(zipf_ids(requests * rows, len(COLUMNS), seed=1)), requests)


def dense(ids: Ids) -> tuple[Ids, int]:
    """Number the distinct ids of all columns from 0: what a table of fixed size must be given.

    Returns
    -------
    rows : ndarray of int64
        In the shape of `ids`.
    num_rows : int
    """
    column = np.arange(ids.shape[1], dtype=np.int64) << 40
    distinct, rows = np.unique(ids | column, return_inverse=True)
    # Neighbours in the order of frequency would share cache lines, which no table of real ids enjoys.
    shuffled = np.random.default_rng(0).permutation(len(distinct))
    return shuffled[rows].reshape(ids.shape), len(distinct)


def mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix bits with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014, section 3)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# ------------------------------------------------------------------------------------ Criteo layout


def labels(ids: Ids, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draw a label for each row from a logistic model with a hidden weight for every id: float32 (rows,)."""
    random = np.random.default_rng(seed + 1)
    noise = NOISE_SPREAD * random.standard_normal(len(ids))
    logits = hidden_logits(ids) + noise
    chance = 1 / (1 + np.exp(-(logits + hidden_bias(ids.shape[1]))))
    return (random.random(len(ids)) < chance).astype(np.float32)


def hidden_logits(ids: Ids) -> npt.NDArray[np.float64]:
    """Sum the hidden weights of each row. A weight depends on its id alone, never on the seed or the row."""
    logits = np.zeros(len(ids))
    for block in range(0, len(ids), 1 << 16):
        bits = mixed(keys(ids[block : block + (1 << 16)]) ^ np.uint64(0x9E3779B97F4A7C15))
        uniform = (bits >> np.uint64(11)) * 2.0**-53
        logits[block : block + (1 << 16)] = (uniform - 0.5).sum(axis=1) * 12**0.5 * WEIGHT_SPREAD
    return logits


def hidden_bias(columns: int) -> float:
    """Find the bias that gives `BASE_RATE` on rows that are always the same: one model labels all data."""
    logits = hidden_logits(zipf_ids(CALIBRATION_ROWS, columns, vocabulary=100_000, seed=0))
    low, high = -50.0, 50.0
    for _ in range(50):
        bias = (low + high) / 2
        low, high = (bias, high) if np.mean(1 / (1 + np.exp(-(logits + bias)))) < BASE_RATE else (low, bias)
    return low


def criteo(rows: int, *, vocabulary: int = 1_000_000, seed: int = 0) -> pa.Table:
    """Make examples in the Criteo layout: `label`, 13 integers, 26 categories of eight hexadecimal digits."""
    ids = zipf_ids(rows, len(COLUMNS), vocabulary=vocabulary, seed=seed)
    columns = {"label": pa.array(labels(ids, seed=seed).astype(np.int8))}
    columns |= {name: pa.array(ids[:, i].astype(np.int32)) for i, name in enumerate(INTEGERS)}
    spread = keys(ids)
    columns |= {name: hexadecimal(spread[:, i]) for i, name in enumerate(COLUMNS) if name in CATEGORIES}
    return pa.table(columns)


def hexadecimal(values: npt.NDArray[np.uint64]) -> pa.Array:
    """Write the upper 32 bits as eight hexadecimal digits."""
    shifts = np.arange(60, 28, -4, dtype=np.uint64)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[(values[:, None] >> shifts) & np.uint64(15)]
    ends = np.arange(0, 8 * len(values) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(values), pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(digits))
    )


# -------------------------------------------------------------------------------------------- files


def cached(name: str, write: Callable[[Path], None]) -> Path:
    """Return the file called `name` in a temporary folder; `write` makes it if it is missing."""
    path = FOLDER / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{name}.{os.getpid()}")
        write(unfinished)
        unfinished.replace(path)
    return path


def criteo_file(form: str, rows: int, *, vocabulary: int = 1_000_000, seed: int = 0) -> Path:
    """Return a file of `criteo` examples; `form` is "tsv", "parquet", "arrow" or "vw"."""
    write = {"tsv": write_tsv, "parquet": write_parquet, "arrow": write_arrow, "vw": write_vw}[form]
    name = f"criteo-{rows}-{vocabulary}-{seed}.{form}"
    return cached(name, lambda path: write(criteo(rows, vocabulary=vocabulary, seed=seed), path))


def numbered_file(rows: int, *, vocabulary: int = 1_000_000, seed: int = 0) -> Path:
    """Return an Arrow file of examples with `label`, and the ids of `criteo` as `numbered` gives them."""

    def write(path: Path) -> None:
        ids = zipf_ids(rows, len(COLUMNS), vocabulary=vocabulary, seed=seed)
        columns = dict(zip(COLUMNS, map(pa.array, numbered(ids, vocabulary).T), strict=True))
        write_arrow(pa.table({"label": labels(ids, seed=seed).astype(np.int8), **columns}), path)

    return cached(f"numbered-{rows}-{vocabulary}-{seed}.arrow", write)


def write_tsv(table: pa.Table, path: Path) -> None:
    """Write lines as Criteo does: tabs, no header."""
    csv.write_csv(table, path, csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"))


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=1 << 16)


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 16)


def write_vw(table: pa.Table, path: Path) -> None:
    """Write Vowpal Wabbit's text: one namespace, and each value behind the letter of its column."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    words = [
        pc.binary_join_element_wise(letters[i], pc.cast(table[name], pa.string()), "")
        for i, name in enumerate(table.column_names[1:])
    ]
    label = pc.if_else(pc.equal(table["label"], 1), "1 |", "-1 |")
    lines = pa.table({"line": pc.binary_join_element_wise(label, *words, " ")})
    csv.write_csv(lines, path, csv.WriteOptions(include_header=False, quoting_style="none"))


# ------------------------------------------------------------------------------------------ flights


def flights() -> pa.Table:
    """Return the flights that have a label, in order."""
    table = pq.read_table(FLIGHTS)
    return table.filter(pc.is_valid(table["late"]))
