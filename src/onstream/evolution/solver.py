"""The solver: parameters that move toward what was rewarded, given nothing but keys and rewards."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from onstream.contracts import Rows, State
from onstream.errors import CheckpointError, ShapeError
from onstream.evolution.noise import NoiseTable, noise_size
from onstream.evolution.shaping import SHAPINGS
from onstream.evolution.steps import STEPS
from onstream.evolution.strategy import Strategy

__all__ = ["Solver", "Update"]


@dataclass(frozen=True, slots=True)
class Update:
    """What `Solver.tell` did.

    Attributes
    ----------
    used : int
        Rewards that counted; 0 means that nothing changed.
    stale : int
        Those of them that came from versions before the current one.
    dropped : int
        Rewards that did not count: of versions that are too old or not known, or not finite.
    mean, best : float
        Of the rewards that counted; NaN without any.
    """

    used: int
    stale: int
    dropped: int
    mean: float
    best: float


class Solver:
    """Move a vector of parameters toward rewards, by perturbations that a key stands for.

    Parameters
    ----------
    parameters : ndarray of float32, shape (n,)
        Where to begin.
    strategy : Strategy
    discount : float
        What a reward of the version before counts, compared with one of the current version.
    max_staleness : int
        Rewards of versions more than so many updates old are dropped.

    Attributes
    ----------
    parameters : ndarray of float32, shape (n,)
    updates : int
        How often they moved.
    spread : ndarray of float32, shape (n,)
        The standard deviation of each parameter's perturbation, in units of sigma: 1 until `sigma_lr` moves it.

    Notes
    -----
    ``theta + sigma * noise(key)`` earned a reward. From `m` of them, shaped to ``u``, the gradient of the expected
    reward is estimated as ``1 / (m * sigma) * sum(discount ** s * u * noise(key))``, where ``s`` is the staleness:
    how many updates lie between the version that earned the reward and the current one. A stale reward counts for
    its noise as a fresh one does, so an antithetic pair of an older version gives the older version's gradient,
    late: what asynchronous gradient descent does, with a discount by staleness (Zhang et al. 2016,
    Staleness-aware Async-SGD, equation 5, divides by the staleness). Weighing by the ratio of the two normal
    densities instead would be without bias, but in many dimensions a few rewards would have all the weight.

    With `sigma_lr`, perturbations are ``sigma * spread * noise(key)``, steps are multiplied by ``spread``, and
    ``log(spread)`` moves by ``sigma_lr / 2`` times the mean of ``discount ** s * u * (noise(key) ** 2 - 1)``: where
    large perturbations, of either sign, earn more, they become larger. That a stale reward's perturbation had the
    spread of its own version is left out of account. If `sigma_lr` becomes 0, the spread stays as it is.

    References
    ----------
    Salimans et al. 2017, Evolution Strategies as a Scalable Alternative to Reinforcement Learning, algorithms 1
    and 2. Schaul et al. 2011, High Dimensions and Heavy Tails for Natural Evolution Strategies, algorithm 2
    (separable natural evolution strategies), for the spread.

    Examples
    --------
    >>> import numpy as np
    >>> solver = Solver(np.zeros(3, np.float32), Strategy(sigma=0.1, lr=0.1))
    >>> for step in range(200):
    ...     keys = np.arange(32 * step, 32 * step + 32)
    ...     tried = solver.parameters + solver.ask(keys)
    ...     _ = solver.tell(keys, -((tried - 1) ** 2).sum(1))
    >>> bool(abs(solver.parameters - 1).max() < 0.1)
    True
    """

    def __init__(
        self, parameters: Rows, strategy: Strategy, *, discount: float = 0.8, max_staleness: int = 4
    ) -> None:
        if parameters.ndim != 1 or not len(parameters):
            raise ShapeError(f"parameters must be a vector of at least one number, got {parameters.shape}")
        self.parameters = np.array(parameters, np.float32)
        self.strategy = strategy
        self.discount = discount
        self.max_staleness = max_staleness
        self.spread: Rows = np.ones(len(parameters), np.float32)
        self.updates = 0
        # Which update made which version; those of branches that were rolled back are not among them.
        self._lineage: dict[int, int] = {}
        self._steps = STEPS[strategy.optimizer](len(parameters), momentum=strategy.momentum)
        self.noise = NoiseTable(strategy.seed, strategy.noise_size or noise_size(len(parameters)))

    @property
    def num_parameters(self) -> int:
        """Length of the vector."""
        return len(self.parameters)

    def ask(self, keys: npt.ArrayLike) -> Rows:
        """Return the perturbation that each key stands for, to be added to the parameters: float32 (keys, n)."""
        return np.float32(self.strategy.sigma) * self.spread * self.noise.rows(keys, self.num_parameters)

    def tell(
        self, keys: npt.ArrayLike, rewards: npt.ArrayLike, versions: npt.ArrayLike | None = None
    ) -> Update:
        """Move the parameters once, by what perturbations earned.

        Parameters
        ----------
        keys : array of int, shape (m,)
        rewards : array of float, shape (m,)
        versions : array of int, shape (m,), optional
            Which version was perturbed; the current one by default.

        Raises
        ------
        ShapeError
            If the arrays differ in length.
        """
        numbers, earned = np.asarray(keys), np.asarray(rewards, np.float64)
        ages = np.zeros(len(numbers), np.int64) if versions is None else self.staleness(versions)
        if not len(numbers) == len(earned) == len(ages):
            raise ShapeError(f"got {len(numbers)} keys, {len(earned)} rewards and {len(ages)} versions")
        good = (ages >= 0) & np.isfinite(earned)
        used = int(good.sum())
        if used == 0:
            return Update(0, 0, len(good), np.nan, np.nan)
        weights = SHAPINGS[self.strategy.shaping](earned[good]) * self.discount ** ages[good]
        total = self.noise.weighted_sum(numbers[good], weights, self.num_parameters)
        gradient = total / np.float32(used * self.strategy.sigma)
        gradient -= np.float32(self.strategy.weight_decay) * self.parameters
        self.parameters = self.parameters + self.spread * self._steps.step(gradient, self.strategy.lr)
        if self.strategy.sigma_lr:
            squares = self.noise.weighted_sum(numbers[good], weights, self.num_parameters, power=2)
            growth = (squares - np.float32(weights.sum())) / np.float32(used)
            self.spread = self.spread * np.exp(np.float32(self.strategy.sigma_lr / 2) * growth)
        self.updates += 1
        return Update(
            used, int((ages[good] > 0).sum()), len(good) - used, earned[good].mean(), earned[good].max()
        )

    def staleness(self, versions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return how many updates ago each version was current; -1 for those whose rewards do not count."""
        known = {version: self.updates - at for version, at in self._lineage.items()}
        ages = np.array([known.get(int(v), -1) for v in np.asarray(versions)], np.int64).reshape(-1)
        ages[ages > self.max_staleness] = -1
        return ages

    def became(self, version: int) -> None:
        """Take note of the version that holds the parameters as they are now."""
        oldest = self.updates - self.max_staleness
        self._lineage = {v: at for v, at in self._lineage.items() if at >= oldest}
        self._lineage[version] = self.updates

    # ------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """Return everything that decides future updates, but for the parameters."""
        moved = {} if (self.spread == 1).all() else {"spread": self.spread}
        return State(
            {f"steps/{name}": array for name, array in self._steps.arrays().items()} | moved,
            {
                "strategy": asdict(self.strategy),
                "discount": self.discount,
                "max_staleness": self.max_staleness,
                "updates": self.updates,
                "lineage": [list(item) for item in self._lineage.items()],
                "noise": {"size": self.noise.size, "checksum": self.noise.checksum},
            },
        )

    @classmethod
    def restore(cls, parameters: Rows, state: State, strategy: Strategy | None = None) -> Solver:
        """Return the solver of a state.

        Parameters
        ----------
        parameters : ndarray of float32, shape (n,)
        state : State
        strategy : Strategy, optional
            To go on with, if not with that of the state. Another optimizer begins anew.

        Raises
        ------
        CheckpointError
            If the state is not one of a solver of so many parameters, or numpy here makes other noise than where it
            was written.
        """
        facts = state.facts
        try:
            stored = Strategy(**facts["strategy"])
            solver = cls(
                parameters,
                strategy or stored,
                discount=facts["discount"],
                max_staleness=facts["max_staleness"],
            )
            solver.updates = int(facts["updates"])
            solver._lineage = {int(version): int(at) for version, at in facts["lineage"]}
            if solver.strategy.optimizer == stored.optimizer:
                prefix = "steps/"
                arrays = {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)}
                solver._steps.load(arrays)
            spread = state.arrays.get("spread", solver.spread)
            same = (solver.noise.seed, solver.noise.size) == (stored.seed, facts["noise"]["size"])
            checksum = int(facts["noise"]["checksum"])
        except (LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint holds no state of a solver: {error!r}") from error
        if spread.shape != solver.spread.shape:
            raise CheckpointError(
                f"the checkpoint's spread must have the shape of the parameters {parameters.shape}, got {spread.shape}"
            )
        solver.spread = spread
        if same:
            solver.noise.check(checksum)
        return solver
