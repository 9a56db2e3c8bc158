"""A job that learns from a log, in a thread of the test."""

import threading
from contextlib import contextmanager

from torch import nn

from onstream import SGD, Constant, Id, Job, Label, Torch


class Sum(nn.Module):
    """The sum of the row: predictions are the sigmoid of what was learned of a user, and of nothing else."""

    def forward(self, x):
        return x.stack().sum((1, 2))


def job(log, directory, **settings):
    features = [Id("user", dim=1), Label("click")]
    options = {"optimizer": SGD(lr=1.0), "initial": Constant(0.0), "max_wait_s": 0.002, "max_bad_share": 1.0}
    return Job(log, features, Torch(Sum), directory, **options | settings)


@contextmanager
def training(log, directory, **settings):
    """Train until the block ends; what the training raises is raised here."""
    stop = threading.Event()
    errors = []

    def run():
        try:
            job(log, directory, **settings).train(stop=stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        if errors:
            raise errors[0]
