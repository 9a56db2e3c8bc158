"""A Flight server in a process of its own, to be killed: log, port, and a directory if it shall train too."""

import sys
import threading

from onstream.serving.flight import FlightServer
from onstream.streams import Log

path, port, *model = sys.argv[1:]
log = Log(path)
server = FlightServer({}, {"events": log}, port=int(port))
print(server.port, flush=True)
if model:
    # PyTorch takes seconds to load, which a server that only serves need not wait for.
    from tests.serving.learning import job

    job(log, model[0], checkpoint_every_s=0.05).train()
threading.Event().wait()
