"""Draw the live view of a running job as an SVG picture: python scripts/live_view.py JOB EXAMPLES OUT.svg."""

import io
import sys
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from onstream import load_job
from onstream.terminal import LiveView


def main(path: str, examples: int, out: Path) -> None:
    console = Console(record=True, width=96, file=io.StringIO())
    view = LiveView(console, f"onstream train {path}")
    stop = threading.Event()

    class Watcher:
        def progress(self, progress):
            if not stop.is_set():
                view.progress(progress)
            if progress.examples >= examples:
                stop.set()

        def note(self, text):
            view.note(text)

    with tempfile.TemporaryDirectory() as directory:
        job = load_job(path).replace({"directory": directory, "report_every_s": 0.2})
        job.train(Watcher(), stop=stop)
    console.print(view.render())
    console.save_svg(str(out), title="onstream")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
