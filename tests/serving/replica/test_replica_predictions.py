"""What replicas predict, and what they tell of themselves."""

import gc
import subprocess
import sys
import threading
import weakref

import pyarrow as pa
import pytest

from onstream import Id, Label, Number, Tensor
from onstream.errors import RequestError, UnavailableError
from onstream.features import Features
from onstream.serving.model import Input
from onstream.serving.replica import Replica
from onstream.serving.version import signature_of
from tests.jobs.small import small_job
from tests.serving.followed import answers_as_trained, equal, predicted, some_rows


def test_a_replica_predicts_as_its_trainer(source, tmp_path):
    job = small_job(source, tmp_path / "model", servable=True, checkpoint_every_s=1e9)
    trainer = job.trainer()
    trainer.run()
    replica = Replica(tmp_path / "model")
    assert replica.poll()
    rows = some_rows(source)
    assert equal(predicted(replica, rows)[1], trainer.predict(rows))


def test_a_process_without_the_users_code_predicts_the_same(history, tmp_path):
    newest = max(history.at)
    with pa.ipc.new_file(tmp_path / "rows.arrow", history.rows.schema) as writer:
        writer.write_batch(history.rows)
    code = f"""
import sys
import pyarrow as pa
from onstream.serving.replica import Replica
replica = Replica({str(history.directory)!r})
assert replica.poll()
rows = pa.ipc.open_file("rows.arrow").get_batch(0)
with replica.reading() as version:
    sys.stdout.buffer.write(version.predict(rows)["click"].tobytes())
assert "tests" not in sys.modules
assert "onstream.job" not in sys.modules and "onstream.trainer" not in sys.modules
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=False)
    assert (found.returncode, found.stderr.decode()) == (0, "")
    assert found.stdout == history.at[newest]["click"].tobytes()


def test_rows_may_be_mappings_or_several_record_batches(history):
    replica, newest = Replica(history.directory), max(history.at)
    replica.poll()
    rows = history.rows
    columns = [name for name in rows.schema.names if name not in ("click", "day")]
    parts = [rows.slice(0, 5), rows.slice(5).select(columns[::-1]), rows.slice(0, 0)]
    mappings = [{name: row[name] for name in columns} for row in rows.to_pylist()]
    for form in (parts, mappings):
        assert equal(predicted(replica, form)[1], history.at[newest])
    assert predicted(replica, [])[1]["click"].shape == (0,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": 3}], "row 0: missing column 'user'"),
        ([{"nothing": 3}], "none of the columns"),
        ([3], "row 0 must be a mapping of column to value, got int"),
        ([{"user": 1, "item": 1}, {"user": "a", "item": 2}], "column 'user': values of these rows do not go"),
        (
            [{"user": 1, "item": i + 0.5 * (i == 2), "tags": [], "price": 1} for i in range(4)],
            "row 2: column 'item': not a whole number, got '2.5'",
        ),
        (
            [{"user": 1, "item": 1, "tags": [], "price": p} for p in ("1", "x", "y")],
            r"row 1: column 'price': not a number, got 'x' \(1 more rows are bad\)",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_column_its_place_and_the_reason(history, rows, message):
    replica = Replica(history.directory)
    replica.poll()
    with replica.reading() as version, pytest.raises(RequestError, match=message):
        version.predict(rows)


def test_a_bad_row_of_several_batches_is_named_by_batch_and_row(history):
    replica = Replica(history.directory)
    replica.poll()
    bad = pa.RecordBatch.from_pylist([{"user": 1, "item": 0.5, "tags": [1], "price": 2.0}])
    with replica.reading() as version, pytest.raises(RequestError, match="batch 1, row 0: column 'item'"):
        version.predict([history.rows, bad])


def test_the_signature_tells_columns_kinds_and_labels(history):
    replica = Replica(history.directory)
    replica.poll()
    signature = replica.signature()
    assert signature.inputs == (
        Input("user", ("id",)),
        Input("item", ("id",)),
        Input("tags", ("list",), (-1,)),
        Input("price", ("number",)),
    )
    assert [label.name for label in signature.outputs] == ["click"]


def test_a_column_that_several_features_read_is_one_input():
    declared = [
        Id("price_id", column="price"),
        Number("price"),
        Number("bucket", column="price", bounds=(1.0, 2.0), dim=2),
        Tensor("image", shape=(2, 3)),
        Label("click"),
    ]
    features = Features(declared)
    assert signature_of(features.describe(), features).inputs == (
        Input("price", ("id", "number")),
        Input("image", ("tensor",), (2, 3)),
    )


def test_many_threads_may_read_one_version_at_once(history):
    replica, newest = Replica(history.directory), max(history.at)
    replica.poll()
    wrong = []

    def read():
        wrong.extend(i for i in range(20) if not answers_as_trained(replica, history, newest))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_status_tells_version_age_and_rows(history):
    replica = Replica(history.directory)
    empty = replica.status()
    assert (empty.version, empty.cut_s, empty.swapped_s, empty.num_rows, empty.error) == (
        None,
        None,
        None,
        {},
        None,
    )
    replica.poll()
    status = replica.status()
    assert status.version == max(history.at)
    assert status.cut_s == history.log.read(status.version).facts["time"]
    assert status.cut_s < status.swapped_s
    assert sum(status.num_rows.values()) > 200


def test_a_closed_replica_lets_go_of_its_memory_and_answers_no_more(trained):
    replica = Replica(trained.directory)
    replica.poll()
    trained.train(1)
    replica.poll()
    with replica.reading() as version:
        tables = weakref.ref(version._tables)
    del version
    replica.close()
    gc.collect()
    assert tables() is None
    with pytest.raises(UnavailableError), replica.reading():
        pass
    assert not replica.poll()
    replica.close()
