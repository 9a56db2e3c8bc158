"""Job files to begin with: what `onstream init` writes, with the networks of the zoo in them, and sample data."""

from __future__ import annotations

import ast
import math
import random
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onstream.errors import JobError
from onstream.features import Declaration, Id, IdList, Label, Number, Tensor, render
from onstream.tables import Normal

__all__ = ["TEMPLATES", "Template", "hidden_by", "job_text", "template_of", "write_sample"]

Features: TypeAlias = list[Declaration]
Fit: TypeAlias = Callable[[Features, str], tuple[Features, str]]
"""(features, network) -> (features as the network needs them, expression that makes it)."""

_WIDTH = 110

# Floats of one vector of an FFM, of which an id has as many as there are features.
_FFM_VECTOR = 4

_KERAS = '''\
class DeepFM(keras.Model):
    """Pairwise products of embeddings, beside a deep network over them (Guo et al. 2017)."""

    def __init__(self):
        super().__init__()
        self.deep = keras.Sequential([layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(1)])

    def call(self, x):
        v = x["stack"]  # (rows, features, dim)
        pairs = 0.5 * ops.sum(ops.square(ops.sum(v, 1)) - ops.sum(ops.square(v), 1), 1)
        return pairs + self.deep(x["row"])[:, 0]'''

_CLICKS: Features = [
    Id("user"),
    Id("ad"),
    Id("site"),
    Number("price", log=True, standardize=True),
    Label("click"),
]
_HISTORIES: Features = [
    Id("user"),
    Id("item"),
    IdList("history", separator="|"),
    Label("click"),
]
_IMAGES: Features = [Tensor("image", (28, 28), scale=1 / 255), Label("shape", "class", classes=4)]


def _as_they_are(features: Features, network: str) -> tuple[Features, str]:
    return features, network


def _one_wide(features: Features, network: str) -> tuple[Features, str]:
    """Give ids rows of one weight."""
    return [replace(f, dim=1) if isinstance(f, Id | IdList) else f for f in features], network


def _field_aware(features: Features, network: str) -> tuple[Features, str]:
    """Give ids one vector for each feature with rows."""
    ids = [f for f in features if isinstance(f, Id | IdList)]
    dim = _FFM_VECTOR * len(ids)
    return [replace(f, dim=dim) if isinstance(f, Id | IdList) else f for f in features], network


def _with_history(features: Features, network: str) -> tuple[Features, str]:
    """Pad the first list of ids, and let it share the rows of the id that is nearest before it."""
    history = next((f for f in features if isinstance(f, IdList)), None)
    ids = [f for f in features if isinstance(f, Id)]
    if history is None or not ids:
        raise JobError(
            f"the template of {network} needs a column of ids and one of lists of ids, such as item and history; "
            f"the source has {render(features)}"
        )
    candidate = [*ids[:1], *(f for f in ids if features.index(f) < features.index(history))][-1]
    # What is alike shows in the products of vectors, so these must not begin too small.
    begun = replace(candidate, initial=Normal(std=0.3))
    padded = replace(history, dim=None, pooling="pad", length=20, shared=candidate.name)
    fitted = [begun if f is candidate else padded if f is history else f for f in features]
    return fitted, f'lambda: {network}("{candidate.name}", "{history.name}")'


def _by_label(features: Features, network: str) -> tuple[Features, str]:
    """Name the labels to the network."""
    names = ", ".join(f'"{f.name}"' for f in features if isinstance(f, Label))
    return features, f"lambda: {network}({names})"


def _of_image(features: Features, network: str) -> tuple[Features, str]:
    """Keep the first image, as (channels, height, width), and the class."""
    image = next((f for f in features if isinstance(f, Tensor)), None)
    label = next((f for f in features if isinstance(f, Label) and f.task == "class"), None)
    shape = _image_shape(image.shape) if image else None
    if image is None or shape is None or label is None:
        raise JobError(
            f"the template of {network} needs a column of images and a label of classes, such as 28 x 28 bytes and "
            f"a digit; the source has {render(features)}"
        )
    channels = "" if shape[0] == 1 else f", channels={shape[0]}"
    made = f'lambda: {network}("{image.name}", classes={label.classes}{channels})'
    return [replace(image, shape=shape), label], made


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Return the shape of an image with its channels first; a flat one is square. None if it is no image."""
    match shape:
        case (size,) if math.isqrt(size) ** 2 == size:
            return 1, math.isqrt(size), math.isqrt(size)
        case (height, width):
            return 1, height, width
        case (channels, height, width):
            return channels, height, width
    return None


@dataclass(frozen=True)
class Template:
    """A network of the zoo and what a job file needs around it.

    Attributes
    ----------
    file : str
        Of the zoo, without its suffix.
    network : str
        The class in it.
    fit : callable
        Makes given features those that the network takes.
    sample : list of Declaration
        Features of the sample data, before `fit`.
    write : callable
        Writes (path, number of rows) of sample data.
    suffix : str
        Of the file that it writes.
    rows : int
        How many rows are enough to learn from.
    batch_size : int
    learner : {"Torch", "Keras"}
        A network of Keras is not of the zoo, but written here.
    """

    file: str
    network: str
    fit: Fit
    sample: Sequence[Declaration]
    write: Callable[[Path, int], None]
    suffix: str = ".csv"
    rows: int = 20_000
    batch_size: int = 256
    learner: Literal["Torch", "Keras"] = "Torch"

    def imports(self) -> str:
        """Return the lines that import what the network is made of."""
        if self.learner == "Keras":
            # Before Keras is imported: it takes one backend a process.
            backend = 'os.environ.setdefault("KERAS_BACKEND", "torch")  # or "jax", or "tensorflow"'
            return f"import os\n\n{backend}\n\nimport keras\nfrom keras import layers, ops"
        torch = "import torch\n" if "torch." in self.code() else ""
        return f"{torch}from torch import Tensor, nn"

    def code(self) -> str:
        """Return the classes of the zoo's file, with the first lines of their documentation."""
        if self.learner == "Keras":
            return _KERAS
        text = (files("onstream.zoo") / f"{self.file}.py").read_text(encoding="utf-8")
        lines = text.splitlines()
        # From the last line to the first, so that places of what comes before stay.
        tree = ast.parse(text)
        documented = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        for node in sorted(documented, key=lambda n: -n.lineno):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                short = f'    """{str(first.value.value).splitlines()[0]}"""'
                kept = [short] if isinstance(node, ast.ClassDef) else []
                lines[first.lineno - 1 : first.end_lineno] = kept
        begin = next(at for at, line in enumerate(lines) if line.startswith("class "))
        return "\n".join(lines[begin:])


def write_clicks(path: Path, rows: int, *, purchases: bool = False) -> None:
    """Write made-up clicks: who likes which ad; some who like it a lot also buy."""
    draw = random.Random(0)
    taste = [draw.gauss(0, 1) for _ in range(500)]
    appeal = [draw.gauss(0, 1) for _ in range(200)]
    with path.open("w") as file:
        file.write("user,ad,site,price,click" + (",buy\n" if purchases else "\n"))
        for _ in range(rows):
            user, ad = min(int(draw.expovariate(0.01)), 499), min(int(draw.expovariate(0.02)), 199)
            site, price = f"site-{draw.randrange(20)}", round(draw.lognormvariate(1, 1), 2)
            liking = taste[user] + appeal[ad] + 0.5 * draw.gauss(0, 1)
            bought = f",{int(liking > 1 + 0.1 * price)}" if purchases else ""
            file.write(f"user-{user},{ad},{site},{price},{int(liking > 1)}{bought}\n")


def write_histories(path: Path, rows: int) -> None:
    """Write made-up histories: who looks at an item again clicks."""
    draw = random.Random(0)
    with path.open("w") as file:
        file.write("user,item,history,click\n")
        for _ in range(rows):
            user, item = draw.randrange(500), draw.randrange(100)
            history = [draw.randrange(100) for _ in range(draw.randrange(4, 12))]
            if draw.random() < 0.5:
                history[draw.randrange(len(history))] = item
            clicked = item in history if draw.random() < 0.9 else draw.random() < 0.5
            file.write(f"user-{user},{item},{'|'.join(map(str, history))},{int(clicked)}\n")


def write_shapes(path: Path, rows: int) -> None:
    """Write made-up images: bars, crosses, frames and discs, in noise."""
    draw = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(28), np.arange(28))
    kinds = draw.integers(0, 4, rows)
    images = draw.integers(0, 96, (rows, 28, 28))
    for image, kind in zip(images, kinds, strict=True):
        x, y = np.abs(across - draw.integers(9, 19)), np.abs(down - draw.integers(9, 19))
        size = draw.integers(4, 8)
        near = np.maximum(x, y) <= size
        drawn = (y <= 1, (x <= 1) | (y <= 1), np.maximum(x, y) >= size - 1, x * x + y * y <= size * size)
        image[near & drawn[kind]] += 128
    flat = pa.array(images.astype(np.uint8).reshape(-1))
    columns = {"image": pa.FixedSizeListArray.from_arrays(flat, 28 * 28), "shape": pa.array(kinds)}
    pq.write_table(pa.table(columns), path)


TEMPLATES = {
    "deepfm": Template("deepfm", "DeepFM", _as_they_are, _CLICKS, write_clicks),
    "mlp": Template("mlp", "MLP", _as_they_are, _CLICKS, write_clicks),
    "lr": Template("lr", "LR", _one_wide, _CLICKS, write_clicks),
    "fm": Template("fm", "FM", _as_they_are, _CLICKS, write_clicks),
    "ffm": Template("ffm", "FFM", _field_aware, _CLICKS, write_clicks),
    "afm": Template("afm", "AFM", _as_they_are, _CLICKS, write_clicks),
    "nfm": Template("nfm", "NFM", _as_they_are, _CLICKS, write_clicks),
    "wide_deep": Template("wide_deep", "WideDeep", _as_they_are, _CLICKS, write_clicks),
    "dcn": Template("dcn", "DCN", _as_they_are, _CLICKS, write_clicks),
    "din": Template("din", "DIN", _with_history, _HISTORIES, write_histories, batch_size=64),
    "keras": Template("", "DeepFM", _as_they_are, _CLICKS, write_clicks, learner="Keras"),
    "mmoe": Template(
        "mmoe", "MMoE", _by_label, [*_CLICKS, Label("buy")], partial(write_clicks, purchases=True)
    ),
    "lenet": Template("lenet", "LeNet", _of_image, _IMAGES, write_shapes, ".parquet", 3_000, 64),
    "vgg": Template("vgg", "VGG", _of_image, _IMAGES, write_shapes, ".parquet", 3_000, 64),
}
"""Templates by name; the first is the one that is taken if none is asked for."""


def template_of(name: str) -> Template:
    """Return a template.

    Raises
    ------
    JobError
        If there is none of that name.
    """
    if name not in TEMPLATES:
        raise JobError(f"there is no template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def job_text(
    name: str,
    template: str,
    stream: str,
    directory: str,
    features: Sequence[Declaration] | None = None,
    *,
    telling: Sequence[str] = (),
) -> str:
    """Return the text of a job file.

    Parameters
    ----------
    name : str
        Of the file, for its first lines.
    template : str
        One of `TEMPLATES`.
    stream : str
        A path, directory or glob of files to read.
    directory : str
        Where the model is kept.
    features : sequence of Declaration, optional
        What is in the stream; by default, what is in the template's sample data.
    telling : sequence of str
        Columns that tell the label, for a comment; they are left out, or `features` holds nothing else.

    Raises
    ------
    JobError
        If there is no such template, or the features are not such as its network takes.
    """
    chosen = template_of(template)
    fitted, made = chosen.fit(list(chosen.sample if features is None else features), chosen.network)
    code = chosen.code()
    declared = render(fitted)
    names = {"Files", "Job", chosen.learner, *re.findall(r"(\w+)\(", " ".join(declared))}
    if "Inputs" in code:
        names.add("Inputs")
    return f'''\
"""Learns from a stream. Check it: onstream check {name}; run it: onstream train {name}"""

{chosen.imports()}

from onstream import {", ".join(sorted(names))}


{code}


job = Job(
    stream=Files({_quoted(stream)}),
{_warning(telling, kept=any(f.name in telling for f in fitted))}{_listed("features=", declared)}\
    learner={chosen.learner}({made}, optimizer="adam", lr=1e-3),
    directory={_quoted(directory)},
    batch_size={chosen.batch_size},
)
'''


def hidden_by(path: Path, text: str) -> str | None:
    """Return the module that a job file of this path would hide from what imports it; None if it hides none."""
    found = set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return path.stem if path.stem in found else None


def write_sample(path: Path, template: str = "deepfm", rows: int | None = None) -> None:
    """Write made-up examples for a template, so that a new job file has something to learn from."""
    chosen = template_of(template)
    chosen.write(path, rows or chosen.rows)


def _warning(telling: Sequence[str], *, kept: bool) -> str:
    """Return a comment on columns that tell the label; nothing if there are none."""
    if not telling:
        return ""
    told = (
        f"{'Kept, as there are no others' if kept else 'Left out'}: {', '.join(telling)}. In the first rows, each "
        f"alone tells the label, or whether there is one, as what is known only afterwards does."
    )
    return textwrap.indent(textwrap.fill(told, _WIDTH - 6), "    # ") + "\n"


def _listed(before: str, items: Sequence[str]) -> str:
    """Return a list on one line if it fits, else as many items a line as fit."""
    whole = f"    {before}[{', '.join(items)}],\n"
    if len(whole) <= _WIDTH + 1:
        return whole
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 2 > _WIDTH:
            lines.append("")
        lines[-1] += f" {item}," if lines[-1] else f"        {item},"
    return f"    {before}[\n" + "".join(f"{text}\n" for text in lines) + "    ],\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
