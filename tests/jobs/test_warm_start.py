"""Jobs that begin with a model trained elsewhere."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from onstream import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    EventTime,
    Expire,
    Files,
    GroupFTRL,
    Id,
    IdList,
    Job,
    Label,
    Normal,
    Number,
    RowFile,
    RowwiseAdagrad,
    SeenTimes,
    Slices,
    Torch,
    WarmStart,
)
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import JobError
from onstream.tables import Table
from tests.jobs.watch import EVERY_BATCH_S, Watch, run

USERS, ITEMS, DIM = 300, 40, 4
ROWS = 512


class Original(nn.Module):
    """A model as it was trained elsewhere."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(USERS, DIM)
        self.item = nn.Embedding(ITEMS, DIM)
        self.deep = nn.Sequential(nn.Linear(3 * DIM + 1, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user, item, seen, price):
        history = torch.stack([self.item(row).sum(0) for row in seen])
        return self.deep(torch.cat([self.user(user), self.item(item), history, price], 1)).squeeze(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1))

    def forward(self, x):
        return self.deep(torch.cat([x.stack().flatten(1), x.numbers()], 1)).squeeze(1)


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(3)
    return Original()


@pytest.fixture(scope="module")
def files(original, tmp_path_factory):
    """The model's files, and a stream: users are texts there, and numbers in the stream."""
    folder = tmp_path_factory.mktemp("model")
    save_file(original.state_dict(), folder / "whole.safetensors")
    deep = {f"model.{name}": tensor for name, tensor in original.deep.state_dict().items()}
    save_file(deep, folder / "net.safetensors")
    torch.save(deep, folder / "net.pt")
    users, items = (e.weight.detach().numpy() for e in (original.user, original.item))
    texts = pa.array([str(i) for i in range(USERS)])
    pq.write_table(
        pa.table({"user": texts, "vector": list(users)}), folder / "users.parquet", row_group_size=64
    )
    columns = {"item_id": range(ITEMS)} | {f"d{j}": items[:, j] for j in range(DIM)}
    pyarrow.csv.write_csv(
        pa.table({name: pa.array(list(values)) for name, values in columns.items()}), folder / "items.csv"
    )
    rng = np.random.default_rng(0)
    rows = {
        "user": rng.integers(0, USERS, ROWS),
        "item": rng.integers(0, ITEMS, ROWS),
        "seen": [rng.integers(0, ITEMS, rng.integers(0, 4)).tolist() for _ in range(ROWS)],
        "price": rng.standard_normal(ROWS).astype(np.float32),
        "click": rng.integers(0, 2, ROWS),
        "day": np.arange(ROWS) * 60 + 1_700_000_000,
    }
    pq.write_table(
        pa.table({name: pa.array(list(values)) for name, values in rows.items()}), folder / "rows.parquet"
    )
    return folder


def warm(files, **options):
    given = {
        "network": files / "net.safetensors",
        "rows": {"user": files / "users.parquet", "item": RowFile(files / "items.csv", id="item_id")},
        "rename": {"model.": "deep."},
    }
    return WarmStart(**given | options)


def job_of(files, directory, warm_start, *, user=(), batch_size=ROWS, **options):
    return Job(
        Files(files / "rows.parquet"),
        [
            Id("user", dim=DIM, **dict(user)),
            Id("item", dim=DIM),
            IdList("seen", shared="item"),
            Number("price"),
            EventTime("day"),
            Label("click"),
        ],
        Torch(Net, servable=False),
        directory,
        warm_start=warm_start,
        batch_size=batch_size,
        report_every_s=EVERY_BATCH_S,
        **options,
    )


@pytest.fixture(scope="module")
def expected(original, files):
    rows = pq.read_table(files / "rows.parquet")
    with torch.no_grad():
        user, item = (torch.tensor(rows[name].to_pylist()) for name in ("user", "item"))
        seen = [torch.tensor(history, dtype=torch.long) for history in rows["seen"].to_pylist()]
        price = torch.tensor(rows["price"].to_pylist()).unsqueeze(1)
        return torch.sigmoid(original(user, item, seen, price)).numpy()


def predicted(job):
    """What a job that begins warm predicts for its stream."""
    trainer = job.trainer()
    trainer.begin_warm()
    [batch] = pq.read_table(job.stream.path).combine_chunks().to_batches()
    return trainer.predict(batch)["click"]


@pytest.mark.parametrize("network", ["net.safetensors", "net.pt"])
def test_a_warm_job_predicts_as_the_original_model(files, expected, tmp_path, network):
    job = job_of(files, tmp_path, warm(files, network=files / network))
    np.testing.assert_allclose(predicted(job), expected, rtol=2e-6)
    assert job.check(2).outputs["click"] == pytest.approx(expected[:2].tolist(), rel=2e-6)


@pytest.mark.parametrize(
    "optimizer", [Adagrad(), Adam(), FTRL(l1=0.01, l2=0.1), GroupFTRL(l1=0.01, l21=0.1), SGD(momentum=0.9)]
)
def test_the_first_batch_is_predicted_by_the_original_and_training_goes_on_from_it(
    files, expected, tmp_path, optimizer
):
    click = np.array(pq.read_table(files / "rows.parquet")["click"].to_pylist())
    loss = -np.mean(np.log(np.where(click == 1, expected, 1 - expected)))
    watch = run(job_of(files, tmp_path, warm(files), optimizer=optimizer))
    assert watch.report.labels["click"].overall["log_loss"] == pytest.approx(loss, rel=1e-5)
    assert any("300 rows of 'user'" in note for note in watch.notes)
    log = CheckpointLog(LocalStore(tmp_path))
    manifest = log.newest()
    assert (
        sum(len(delta.keys) for name in manifest.tables for delta in log.rows(manifest, name))
        == USERS + ITEMS
    )


def test_one_step_moves_warm_rows_against_their_gradient(files, tmp_path):
    job = job_of(files, tmp_path, warm(files))
    before = predicted(job)
    trainer = job.trainer()
    trainer.run()
    [batch] = pq.read_table(job.stream.path).combine_chunks().to_batches()
    after = trainer.predict(batch)["click"]
    click = np.array(batch["click"].to_pylist())
    losses = [-np.mean(np.log(np.where(click == 1, p, 1 - p))) for p in (before, after)]
    assert losses[1] < losses[0]


def test_a_job_that_goes_on_leaves_the_warm_start_aside_and_says_so(files, tmp_path):
    run(job_of(files, tmp_path, None))
    watch = Watch()
    watch.stop.set()
    job = job_of(files, tmp_path, WarmStart(files / "gone.pt"))
    assert job.train(watch, stop=watch.stop).resumed_from == 1
    assert "the warm start is for a directory without checkpoints; this one has its own model" in watch.notes


def test_rows_are_admitted_and_expire_counting_from_the_first_example(files, tmp_path):
    user = {"admission": SeenTimes(3), "expiry": Expire("2h")}
    job = job_of(files, tmp_path, warm(files), user=user, batch_size=64)
    trainer = job.trainer()
    trainer.run()
    # The stream goes on for 512 minutes: who came in the last two hours is there, and nobody else.
    [name] = [spec.name for spec in trainer.features.layout.tables if "user" in spec.features]
    trainer.tables[name].evict(1_700_000_000 + ROWS * 60)
    last = pq.read_table(files / "rows.parquet")["user"].to_pylist()[-120:]
    assert 0 < len(trainer.tables[name]) <= len(set(last))
    watch = run(job.replace({"directory": tmp_path / "other"}), reports=1)
    assert watch.seen[0].table_rows[name] == USERS


def test_without_strict_what_does_not_fit_begins_as_ever(files, tmp_path, expected):
    torch.save(
        {"deep.0.weight": torch.zeros(8, 13), "deep.2.weight": torch.zeros(1, 9)}, tmp_path / "part.pt"
    )
    job = job_of(files, tmp_path / "model", WarmStart(tmp_path / "part.pt", strict=False))
    watch = run(job)
    told = [note for note in watch.notes if "warm start" in note]
    assert len(told) == 2
    assert "missing in the file: deep.0.bias, deep.2.bias" in told[0]
    assert "of another shape: deep.2.weight is (1, 8), in the file (1, 9)" in told[1]


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rename": {}}, "missing in the file: deep.0.weight, .*; not in the network: model.0.bias, "),
        ({"rename": {}, "strict": False}, "are not those of the network"),
        (
            {"rename": {"model.0.bias": "deep.0.weight", "model.": "deep."}},
            "would have one name: deep.0.weight",
        ),
        ({"network": "nowhere.pt"}, "there is no file 'nowhere.pt'"),
        ({"network": "{users}"}, "is no state dict that can be read"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_learned(files, tmp_path, change, told):
    if change.get("network") == "{users}":
        change = {"network": files / "users.parquet"}
    with pytest.raises(JobError, match=told):
        run(job_of(files, tmp_path, warm(files, **change)))


def test_nothing_in_a_file_of_a_network_is_run(files, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"deep.0.weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(JobError, match="is no state dict that can be read"):
        run(job_of(files, tmp_path / "model", WarmStart(tmp_path / "bomb.pt")))


@pytest.mark.parametrize("data", [b"", b"abc", b"\x80\x02}", b"PK\x03\x04"])
def test_bytes_of_no_network_are_refused(files, tmp_path, data):
    (tmp_path / "broken.pt").write_bytes(data)
    with pytest.raises(JobError, match="is no state dict that can be read"):
        run(job_of(files, tmp_path / "model", WarmStart(tmp_path / "broken.pt")))


def table_of(**columns):
    vectors = {"vector": [[0.0] * DIM] * 3}
    return pa.table({"id": [1, 2, 3]} | vectors | columns)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (table_of(vector=[[0.0] * 3] * 3), "row 0: expected 4 finite numbers, got 3 values"),
        (table_of(vector=[[0.0] * 4, [0.0] * 4, [float("nan")] * 4]), "row 2: expected 4 finite numbers"),
        (table_of(id=[1, 2, 1]), "an id is there more than once, among rows 0 to 2"),
        (table_of(id=["1", "x" * 70_000, "3"]), "row 1 is no id"),
        (pa.table({"key": [1], "vector": [[0.0] * 4]}), "there is no column 'user' or 'id'"),
        (
            table_of(other=[[0.0] * 4] * 3),
            "expected one column of lists, or 4 numbered columns such as d0 to d3",
        ),
        (
            pa.table({"id": [1], "d0": [0.0], "d1": [0.0]}),
            "expected one column of lists, or 4 numbered columns",
        ),
        (
            pa.table({"id": [1], "d0": [0.0], "d1": [0.0], "d2": [0.0], "d3": [None]}),
            "got .0.0, 0.0, 0.0, None.",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_their_place(files, tmp_path, table, told):
    pq.write_table(table, tmp_path / "rows.parquet")
    job = job_of(files, tmp_path / "model", WarmStart(rows={"user": tmp_path / "rows.parquet"}))
    with pytest.raises(JobError, match=f"warm start of 'user' from .*{told}"):
        run(job)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"price": "x.parquet"}, "'price', which is no feature of ids; there are"),
        ({"nobody": "x.parquet"}, "'nobody', which is no feature of ids"),
        ({"item": "x.parquet", "seen": "x.parquet"}, "'item' and 'seen' have the same rows"),
    ],
)
def test_features_that_have_no_rows_of_their_own_are_refused_when_the_job_is_made(
    files, tmp_path, rows, told
):
    with pytest.raises(JobError, match=told):
        job_of(files, tmp_path, WarmStart(rows=rows))


@pytest.mark.parametrize("name", ["gone.parquet", "rows.txt"])
def test_files_that_are_not_there_or_of_no_known_kind_are_refused(files, tmp_path, name):
    (tmp_path / "rows.txt").write_text("id,d0\n")
    with pytest.raises(JobError, match=r"no such file|ends in one of \.parquet"):
        run(job_of(files, tmp_path / "model", WarmStart(rows={"user": tmp_path / name})))


def test_rows_may_lie_in_several_files_of_a_directory_and_for_the_feature_that_shares_them(files, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((6, DIM)).astype(np.float32)
    (tmp_path / "items").mkdir()
    for part in range(2):
        table = pa.table(
            {"id": list(range(3 * part, 3 * part + 3)), "v": list(vectors[3 * part : 3 * part + 3])}
        )
        pq.write_table(table, tmp_path / "items" / f"{part}.parquet")
    job = job_of(files, tmp_path / "model", WarmStart(rows={"seen": tmp_path / "items"}))
    trainer = job.trainer()
    trainer.begin_warm()
    rows = trainer.tables["d4-adagrad"].rows()
    assert sorted(rows.weights[:, 0].tolist()) == sorted(vectors[:, 0].tolist())


# ------------------------------------------------------------------------------- what optimizers begin with


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(),
        SGD(momentum=0.9),
        Adagrad(initial_accumulator=0.5),
        RowwiseAdagrad(initial_accumulator=0.25),
        Adam(),
        FTRL(l1=0.1, l2=0.2),
        GroupFTRL(l1=0.1, l21=0.3),
        Slices((1, FTRL(l1=0.1)), (2, Adam()), (3, Adagrad(initial_accumulator=1.0))),
    ],
)
def test_rows_that_are_put_in_begin_as_rows_that_are_drawn(optimizer):
    drawn = Table(6, optimizer=optimizer, initial=Normal(std=1.0))
    drawn.pull(np.arange(1, 50, dtype=np.uint64), now=7)
    expected = drawn.rows()
    given = Table(6, optimizer=optimizer)
    given.put(expected.keys, expected.weights, seen=7, count=1)
    found = given.rows()
    for name in ("keys", "seen", "count", "weights", "state"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert len(given.cut().keys) == len(expected.keys)
