"""Fashion-MNIST, from the Debian package dataset-fashion-mnist."""

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path(tempfile.gettempdir()) / "onstream-fashion-mnist"


def fetch() -> Path | None:
    """Return the folder of the data: where the package is installed, or unpacked in a cache; None without either."""
    if INSTALLED.is_dir():
        return INSTALLED
    unpacked = CACHE / INSTALLED.relative_to("/")
    if unpacked.is_dir():
        return unpacked
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        got = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True)
        packages = list(Path(folder).glob("*.deb"))
        if got.returncode or not packages:
            return None
        # Unpacked aside and then renamed: a cache that is there is whole.
        whole = Path(tempfile.mkdtemp(dir=CACHE.parent, prefix=CACHE.name))
        subprocess.run(["dpkg-deb", "-x", packages[0], whole], check=True)
        whole.rename(CACHE)
    return unpacked


def images_of(folder: Path, part: str) -> pa.RecordBatch:
    """Return images and their classes: the 60,000 of "train" or the 10,000 of "t10k"."""
    images = np.frombuffer(_unpacked(folder / f"{part}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    kinds = np.frombuffer(_unpacked(folder / f"{part}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images), 28 * 28)
    return pa.record_batch({"image": flat, "kind": pa.array(kinds)})


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        return file.read()
