"""The demo: a year of departures, and arrivals in the hours in which they came."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from onstream import Log, load_job
from onstream.serving.server import Server
from onstream.serving.settings import ServerSettings

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_flight_leaves_and_every_arrival_comes_once_in_its_hour():
    hours = list(runpy.run_path(str(EXAMPLES / "send_departures.py"))["hours"]())
    departures = pa.concat_tables([left for left, _ in hours])
    arrivals = pa.concat_tables([landed for _, landed in hours])
    assert departures["id"].to_pylist() == list(range(336_776))
    assert not {"late", "outcome", "arrived"} & set(departures.column_names)
    assert len(arrivals) == 327_346
    assert np.diff(arrivals["arrived"].to_numpy().astype(np.int64)).min() >= 0
    for left, landed in hours[5_000:5_020]:
        times = np.concatenate([left["scheduled"].to_numpy(), landed["arrived"].to_numpy()])
        assert len(np.unique(times.astype("datetime64[h]"))) <= 1


def test_the_sender_says_in_the_end_that_all_were_sent(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(EXAMPLES / "send_departures.py"))["main"]
    logs = {name: Log(tmp_path / f"{name}.db") for name in ("departures", "arrivals")}
    anywhere = ServerSettings(rest_port=None, grpc_port=None, flight_port=0)
    with Server({"flights": tmp_path / "model"}, anywhere, logs=logs) as server:
        command = ["send_departures.py", "--address", server.addresses.flight, "--hours", "3"]
        for _ in range(2):
            monkeypatch.setattr(sys, "argv", [*command, "--factor", "1e9"])
            main()
            last = capsys.readouterr().out.splitlines()[-1]
            assert (
                last
                == f"all were sent: {logs['departures'].end} flights left and {logs['arrivals'].end} arrived"
            )
    assert logs["departures"].end > 50


def test_the_job_reads_both_logs_and_learns_a_flight_when_it_has_arrived(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.syspath_prepend(str(EXAMPLES))
    job = load_job(EXAMPLES / "flights_join.py")
    label = job.encoder().layout.labels[0]
    assert (label.name, label.policy.kind, label.policy.window_s) == ("late", "when_known", 12 * 3600)
