"""Metrics of several server processes, told by whichever of them is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from onstream.serving.metrics import Metrics
from onstream.serving.settings import Member

__all__ = ["Siblings"]

_SUFFIX = ".prom"


class Siblings:
    """The processes of a server that has several: each keeps its metrics in a file that the others read.

    Parameters
    ----------
    member : Member
    metrics : Metrics
        Of this process.

    Notes
    -----
    All numbers get the label "process": each process counts from 0 when it starts, which a sum of them would hide
    from who asks for rates.
    """

    def __init__(self, member: Member, metrics: Metrics) -> None:
        self._folder = member.folder
        self._own = member.folder / f"{member.number}{_SUFFIX}"
        self._metrics = metrics

    def tell(self) -> None:
        """Let the others know the numbers of this process; where the disk has no room, those from before stand."""
        new = self._own.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(self._metrics.render())
            new.replace(self._own)

    def render(self) -> bytes:
        """Return the numbers of all processes in the text format of Prometheus; those of others are a second old."""
        text: bytes = generate_latest(_registry(self._texts()))
        return text

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Yield the number and the metrics of each process."""
        yield self._own.stem, self._metrics.render().decode()
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path != self._own:
                yield path.stem, path.read_text()


class _Families:
    """Families of metrics, for a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _registry(texts: Iterable[tuple[str, str]]) -> CollectorRegistry:
    """Return the metrics of texts, each labelled by its name."""
    families: dict[str, Metric] = {}
    for name, text in texts:
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [s._replace(labels={**s.labels, "process": name}) for s in family.samples]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return registry
