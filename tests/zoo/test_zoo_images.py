"""LeNet and VGG on Fashion-MNIST."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onstream import Files, Job, Label, Tensor, Torch, zoo
from tests.zoo.fashion import PACKAGE, fetch, images_of


@pytest.mark.long
@pytest.mark.parametrize("network", [zoo.LeNet, zoo.VGG])
def test_clothes_are_told_apart_after_one_pass(tmp_path, network):
    folder = fetch()
    if folder is None:
        pytest.skip(f"the Debian package {PACKAGE} is not installed and could not be fetched with apt-get")
    pq.write_table(pa.Table.from_batches([images_of(folder, "train")]), tmp_path / "images.parquet")
    trainer = Job(
        Files(tmp_path / "images.parquet"),
        [Tensor("image", (1, 28, 28), scale=1 / 255), Label("kind", "class", classes=10)],
        Torch(network, lr=2e-3),
        tmp_path / "model",
        batch_size=32,
        checkpoint_every_s=600,
    ).trainer()
    assert trainer.run().learned == 60_000
    unseen = images_of(folder, "t10k")
    right = trainer.predict(unseen)["kind"].argmax(1) == unseen["kind"].to_numpy()
    assert right.mean() >= 0.85
