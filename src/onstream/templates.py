"""Job files to begin with: what `onstream init` writes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from onstream.errors import JobError

__all__ = ["TEMPLATES", "job_text", "write_sample"]

_LR = '''\
class LR(nn.Module):
    """Logistic regression: one weight an id, learned in the tables."""

    def __init__(self):
        super().__init__()
        self.rest = nn.LazyLinear(1)

    def forward(self, x):
        return x.stack().sum((1, 2)) + self.rest(x.numbers()).squeeze(1)
'''

_MLP = '''\
class MLP(nn.Module):
    """A deep network over embeddings and numbers."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        return self.deep(torch.cat([x.stack().flatten(1), x.numbers()], 1))
'''

_DEEPFM = '''\
class DeepFM(nn.Module):
    """Guo et al. 2017: pairwise products of embeddings, beside a deep network over them."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        v = x.stack()  # (rows, features, dim)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return pairs + self.deep(torch.cat([v.flatten(1), x.numbers()], 1)).squeeze(1)
'''

TEMPLATES = {"deepfm": _DEEPFM, "mlp": _MLP, "lr": _LR}
"""Networks by name."""

_SAMPLE_FEATURES = (
    'Id("user")',
    'Id("ad")',
    'Id("site")',
    'Number("price", log=True, standardize=True)',
    'Label("click")',
)


def job_text(
    name: str, template: str, stream: str, directory: str, features: Sequence[str] = _SAMPLE_FEATURES
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
    features : sequence of str
        Declarations as Python expressions.

    Raises
    ------
    JobError
        If there is no such template.
    """
    if template not in TEMPLATES:
        raise JobError(f"there is no template {template!r}; there are {', '.join(TEMPLATES)}")
    if template == "lr":
        features = [_one_wide(feature) for feature in features]
    network = TEMPLATES[template]
    kind = network.split("(")[0].removeprefix("class ")
    names = sorted({"Files", "Job", "Torch", *(feature.split("(")[0] for feature in features)})
    torch = "import torch\n" if "torch." in network else ""
    return f'''\
"""Learns from a stream. Check it: onstream check {name}; run it: onstream train {name}"""

{torch}from torch import nn

from onstream import {", ".join(names)}

features = [
{_wrapped(features)}]


{network}

job = Job(
    stream=Files({_quoted(stream)}),
    features=features,
    learner=Torch({kind}, optimizer="adam", lr=1e-3),
    directory={_quoted(directory)},
    batch_size=256,
)
'''


def write_sample(path: Path, rows: int = 20_000) -> None:
    """Write made-up clicks to a CSV file, so that a new job file has something to learn from."""
    draw = random.Random(0)
    taste = [draw.gauss(0, 1) for _ in range(500)]
    appeal = [draw.gauss(0, 1) for _ in range(200)]
    with path.open("w") as file:
        file.write("user,ad,site,price,click\n")
        for _ in range(rows):
            user, ad = min(int(draw.expovariate(0.01)), 499), min(int(draw.expovariate(0.02)), 199)
            site, price = f"site-{draw.randrange(20)}", round(draw.lognormvariate(1, 1), 2)
            liked = taste[user] + appeal[ad] + 0.5 * draw.gauss(0, 1) > 1
            file.write(f"user-{user},{ad},{site},{price},{int(liked)}\n")


def _wrapped(features: Sequence[str], width: int = 110) -> str:
    """Return list items, as many a line as fit."""
    lines = [""]
    for feature in features:
        if lines[-1] and len(lines[-1]) + len(feature) + 6 > width:
            lines.append("")
        lines[-1] += f" {feature}," if lines[-1] else f"    {feature},"
    return "".join(f"{text}\n" for text in lines)


def _one_wide(feature: str) -> str:
    """Return an id feature with rows of one weight."""
    if not feature.startswith(("Id(", "IdList(")) or "dim=" in feature:
        return feature
    return f"{feature[:-1]}, dim=1)"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
