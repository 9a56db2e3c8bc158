"""The row optimizers once more, in plain float64 numpy, row by row."""

import numpy as np

from onstream import tables


def sgd(o, w, s, g):
    v = o.momentum * s.get("v", 0) + g
    s["v"] = v
    return w - o.lr * v


def adagrad(o, w, s, g):
    s["a"] = s.get("a", np.full_like(w, o.initial_accumulator)) + g * g
    return w - o.lr * g / (np.sqrt(s["a"]) + o.eps)


def rowwise_adagrad(o, w, s, g):
    s["a"] = s.get("a", o.initial_accumulator) + np.mean(g * g)
    return w - o.lr * g / (np.sqrt(s["a"]) + o.eps)


def adam(o, w, s, g):
    s["t"] = s.get("t", 0) + 1
    s["m"] = o.beta1 * s.get("m", 0) + (1 - o.beta1) * g
    s["v"] = o.beta2 * s.get("v", 0) + (1 - o.beta2) * g * g
    m, v = s["m"] / (1 - o.beta1 ** s["t"]), s["v"] / (1 - o.beta2 ** s["t"])
    return w - o.lr * m / (np.sqrt(v) + o.eps)


def soft(z, l1):
    return np.sign(z) * np.maximum(np.abs(z) - l1, 0)


def ftrl(o, w, s, g, l21=0.0):
    if "z" not in s:
        z = -w * (o.beta / o.lr + o.l2)
        norm = np.linalg.norm(z)
        z = z * (1 + l21 * np.sqrt(len(w)) / norm) if norm > 0 else z
        s["z"], s["n"] = z + np.sign(z) * o.l1, np.zeros_like(w)
    n = s["n"] + g * g
    s["z"] = s["z"] + g - (np.sqrt(n) - np.sqrt(s["n"])) / o.lr * w
    s["n"] = n
    pull = soft(s["z"], o.l1)
    norm = np.linalg.norm(pull)
    bound = l21 * np.sqrt(len(w))
    shrink = 0.0 if norm <= bound else 1 - bound / norm if norm > 0 else 1.0
    return -shrink * pull / ((o.beta + np.sqrt(n)) / o.lr + o.l2)


def group_ftrl(o, w, s, g):
    return ftrl(o, w, s, g, o.l21)


def slices(o, w, s, g):
    parts, at = [], 0
    for i, (width, part) in enumerate(o.parts):
        own = s.setdefault(i, {})
        parts.append(REFERENCES[type(part)](part, w[at : at + width], own, g[at : at + width]))
        at += width
    return np.concatenate(parts)


REFERENCES = {
    tables.SGD: sgd,
    tables.Adagrad: adagrad,
    tables.RowwiseAdagrad: rowwise_adagrad,
    tables.Adam: adam,
    tables.FTRL: ftrl,
    tables.GroupFTRL: group_ftrl,
    tables.Slices: slices,
}


class ReferenceTable:
    """A dict of rows. `births` tells how a row begins; it is read, never learned."""

    def __init__(self, dim, optimizer, births):
        self.dim, self.optimizer, self.births = dim, optimizer, births
        self.rows, self.states = {}, {}

    def pull(self, keys):
        out = np.zeros((len(keys), self.dim))
        for i, key in enumerate(keys.tolist()):
            if key:
                if key not in self.rows:
                    self.rows[key] = self.births.pull(np.array([key], np.uint64), learn=False)[0].astype(
                        np.float64
                    )
                out[i] = self.rows[key]
        return out

    def push(self, keys, grads):
        summed = {}
        for key, grad in zip(keys.tolist(), grads.astype(np.float64), strict=True):
            summed[key] = summed.get(key, 0) + grad
        for key, grad in summed.items():
            if key in self.rows:
                state = self.states.setdefault(key, {})
                self.rows[key] = REFERENCES[type(self.optimizer)](self.optimizer, self.rows[key], state, grad)
