"""Someone who watches a job run in this process, and may stop it."""

import threading

from onstream.evaluate import Report
from onstream.trainer import Progress

EVERY_BATCH_S = 1e-6
"""As `report_every_s`: a report is due after every batch."""


class Watch:
    """Keep what a job tells; set `stop` after so many reports, or once `until` holds for one."""

    def __init__(self, *, reports: int | None = None, until=None):
        self.stop = threading.Event()
        self.notes: list[str] = []
        self.seen: list[Progress] = []
        self._reports = reports
        self._until = until

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)
        if len(self.seen) == self._reports or (self._until and self._until(progress)):
            self.stop.set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def report(self) -> Report:
        return self.seen[-1].report


def run(job, *, reports=None, until=None) -> Watch:
    """Run a job and return who watched it."""
    watch = Watch(reports=reports, until=until)
    watch.summary = job.train(watch, stop=watch.stop)
    return watch
