"""Streams of impressions whose feedback comes late, emitted as policies say, and batches of them."""

from dataclasses import replace

import numpy as np

from onstream.contracts import Emission, Label, Phase
from onstream.feedback import Policy

from .batches import batch, layout


def late_layout(policy: Policy, *, kept: float = 1.0, **options):
    return layout(labels=(Label("y", "binary", policy=policy, kept=kept),), **options)


def late_batch(labels, phase, elapsed, *, rows=None, **options):
    """Return a batch of rows that are emitted in these phases."""
    labels = np.asarray(labels, np.float32)
    n = len(labels)
    emission = Emission(
        np.asarray(phase, np.int8),
        np.asarray(elapsed, np.float32),
        np.zeros(n),
        np.arange(n, dtype=np.uint64) if rows is None else np.asarray(rows, np.uint64),
    )
    return replace(batch(n, labels={"y": labels}, **options), emissions={"y": emission})


def emitted(answered, delay, policy: Policy, *, kept=1.0, seed=0):
    """Return the rows that a policy makes of impressions, in no order of time.

    Parameters
    ----------
    answered : ndarray of bool, shape (n,)
        Whether feedback comes within the window.
    delay : ndarray of float, shape (n,)
        When, in seconds.

    Returns
    -------
    impressions : ndarray of int
    labels, phase, elapsed : ndarray
    """
    every = np.arange(len(answered))
    window = policy.window_s
    parts = []
    if policy.early_s is None:
        parts.append((every, answered, Phase.FINAL, np.where(answered, delay, window)))
    else:
        quick = answered & (delay <= policy.early_s)
        early, slow = ~quick, answered & ~quick
        parts.append((every[quick], 1, Phase.FINAL, delay[quick]))
        parts.append((every[early], 0, Phase.EARLY, policy.early_s))
        parts.append((every[slow], 1, Phase.CORRECTION, delay[slow]))
        if policy.corrects == "all":
            parts.append((every[~answered], 0, Phase.CORRECTION, window))
    columns = [
        np.concatenate([np.broadcast_to(np.asarray(part[i], np.float64), part[0].shape) for part in parts])
        for i in range(4)
    ]
    stays = np.random.default_rng(seed).random(len(answered)) < kept
    taken = (columns[1] > 0) | stays[columns[0].astype(int)]
    columns = [column[taken] for column in columns]
    return columns[0].astype(int), columns[1], columns[2], columns[3]
