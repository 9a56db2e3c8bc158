"""Draw the live view of a job that learns and serves: python scripts/live_view.py EXAMPLES OUT.svg."""

import io
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from onstream import load_job
from onstream.cli.run import train_and_serve
from onstream.cli.terminal import LiveView

EXAMPLES = Path(__file__).parents[1] / "examples"
PORT = "18815"


class Watcher(LiveView):
    """Keep every picture, and end the job after some examples."""

    def __init__(self, *args, examples: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.pictures = []
        self.ended = False

    def progress(self, progress):
        super().progress(progress)
        self.pictures.append(self.render())
        if progress.examples >= self.examples and not self.ended:
            self.ended = True
            os.kill(os.getpid(), signal.SIGINT)


def main(examples: int, out: Path) -> None:
    console = Console(record=True, width=96, file=io.StringIO())
    views = []

    @contextmanager
    def watching(served):
        title = "onstream run examples/flights_join.py"
        views.append(Watcher(Console(file=io.StringIO()), title, served=served, examples=examples))
        yield views[0]

    with tempfile.TemporaryDirectory() as folder:
        # The job keeps its logs and its model in the folder where it runs.
        os.chdir(folder)
        job = load_job(EXAMPLES / "flights_join.py").replace({"report_every_s": 0.5})
        options = ["--rest-port", "0", "--grpc-port", "-1", "--flight-port", PORT]
        sender = [
            sys.executable,
            str(EXAMPLES / "send_departures.py"),
            "--address",
            f"grpc://127.0.0.1:{PORT}",
        ]
        with subprocess.Popen(sender, stdout=subprocess.DEVNULL) as sending:
            train_and_serve(job, None, options, watching)
            sending.terminate()
    # The last one is of the end, when the server has gone.
    console.print(views[0].pictures[-2])
    console.save_svg(str(out), title="onstream")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).resolve())
