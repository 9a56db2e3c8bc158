"""Negatives that are left out: which, and that a replay leaves out the same."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onstream import Files
from onstream.errors import JobError
from onstream.streams.sample import Sample


@pytest.fixture
def clicks(tmp_path):
    rows = 20_000
    clicked = np.random.default_rng(0).random(rows) < 0.1
    table = pa.table({"id": np.arange(rows), "clicked": clicked, "text": clicked.astype("U5")})
    pq.write_table(table, tmp_path / "clicks.parquet", row_group_size=3_000)
    return Files(tmp_path / "clicks.parquet")


def read(stream, positions=None, max_rows=1_000):
    return list(stream.read(positions or {}, max_rows=max_rows, stop=threading.Event()))


def ids(chunks):
    return [x for chunk in chunks for x in chunk.batch["id"].to_pylist()]


@pytest.mark.parametrize("options", [{}, {"key": "id"}])
@pytest.mark.parametrize("label", ["clicked", "text"])
def test_all_positives_and_a_share_of_negatives_are_kept(clicks, options, label):
    kept = pa.concat_batches([c.batch for c in read(Sample(clicks, label, negatives=0.2, **options))])
    positives = sum(c.batch["clicked"].to_numpy(zero_copy_only=False).sum() for c in read(clicks))
    clicked = kept["clicked"].to_numpy(zero_copy_only=False)
    assert clicked.sum() == positives
    assert (~clicked).sum() == pytest.approx(0.2 * (20_000 - positives), rel=0.06)


@pytest.mark.parametrize("options", [{}, {"key": "id"}])
def test_which_are_kept_depends_neither_on_chunks_nor_on_where_reading_goes_on(clicks, options):
    sample = Sample(clicks, "clicked", negatives=0.2, **options)
    whole = ids(read(sample))
    assert ids(read(sample, max_rows=77)) == whole
    chunk = read(sample)[0]
    for row in (0, 10, 50):
        rest = read(sample, {chunk.partition: int(chunk.ends[row])})
        assert ids(rest) == whole[row + 1 :]


def test_rows_of_one_key_stay_together(tmp_path):
    table = pa.table({"id": np.repeat(np.arange(500), 4), "clicked": np.zeros(2_000, np.int8)})
    pq.write_table(table, tmp_path / "rows.parquet")
    kept = ids(read(Sample(Files(tmp_path / "rows.parquet"), "clicked", negatives=0.3, key="id")))
    assert 0 < len(kept) < 2_000
    assert all(kept.count(key) == 4 for key in set(kept))


def test_it_decodes_what_it_needs_to_choose(clicks):
    sample = Sample(clicks, "clicked", negatives=0.2, key="id").select(["text"])
    assert set(read(sample)[0].batch.schema.names) == {"text", "clicked", "id"}


@pytest.mark.parametrize("negatives", [0, -1, 1.5, True, "0.1"])
def test_the_share_lies_above_0_and_up_to_1(clicks, negatives):
    with pytest.raises(JobError, match="negatives must be a share above 0"):
        Sample(clicks, "clicked", negatives=negatives)


def test_a_share_is_said_once(clicks):
    with pytest.raises(JobError, match="say it once"):
        Sample(Sample(clicks, "clicked", negatives=0.5), "clicked", negatives=0.5)
