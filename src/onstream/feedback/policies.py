"""What to do while feedback is late: policies by name, each from its source.

A policy says when the join emits rows of an impression, and with what label; the learner's loss makes up for labels
that were not final. Policies are frozen, and plain values describe them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

from onstream.errors import JobError
from onstream.feedback.durations import seconds

__all__ = [
    "POLICIES",
    "DelayedFeedback",
    "ElapsedTimeSampling",
    "FakeNegativeCalibrated",
    "FakeNegativeWeighted",
    "Policy",
    "Wait",
    "WhenKnown",
    "policy_of",
]

# Where nothing else is said: the first look at an impression, as a share of its window, and how many are measured.
_AFTER_SHARE = 0.01
_MEASURED = 0.1


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Base of the policies.

    Parameters
    ----------
    window_s : float
        How long after its impression feedback counts, in seconds; `Join` sets it.
    lateness_s : float
        How much later than its own time feedback may arrive; `Join` sets it.

    Attributes
    ----------
    corrects : {"none", "feedback", "all"}
        What follows an early row: nothing; a positive when feedback comes within the window; or, if none came, a
        negative when the window closes as well.
    weighs : bool
        Whether the learner needs a loss of its own.
    at_feedback : bool
        Whether the first row goes out as soon as feedback comes, final, and when the window closes without any.
    """

    kind: ClassVar[str]
    corrects: ClassVar[Literal["none", "feedback", "all"]] = "feedback"
    weighs: ClassVar[bool] = True
    at_feedback: ClassVar[bool] = False

    window_s: float = math.inf
    lateness_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the options."""
        if not (self.window_s > 0 and 0 <= self.lateness_s < math.inf):
            raise JobError(
                f"{type(self).__name__}: window_s must be above 0 and lateness_s finite and not negative, got "
                f"{self.window_s!r} and {self.lateness_s!r}"
            )
        self._check()

    @property
    def early_s(self) -> float | None:
        """Age at which the first row goes out, in seconds; None: when the window closes.

        If feedback has come by then, the row is final and has its label; else it is a negative, and early.
        """
        return 0.0

    @property
    def measured_share(self) -> float:
        """Share of impressions that go out at once without a label, only to be predicted.

        The metrics score these predictions when the outcome is there. 0 where first rows go out at once anyway.
        """
        return 0.0

    @property
    def columns(self) -> bool:
        """Whether rows need to tell phase, elapsed seconds and time."""
        return self.weighs or self.measured_share > 0

    def within(self, window_s: float, lateness_s: float = 0.0) -> Self:
        """Return the policy for a window.

        Raises
        ------
        JobError
            If the window is not longer than 0 and finite, or does not go with the policy's options.
        """
        if not 0 < window_s < math.inf:
            raise JobError(f"a window must be longer than 0 and finite, got {window_s!r} s")
        return replace(self, window_s=float(window_s), lateness_s=float(lateness_s))

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        facts = asdict(self)
        if not math.isfinite(self.window_s):
            del facts["window_s"]
        return {"kind": self.kind, **facts}

    def _check(self) -> None:
        """Refuse options that do not go together."""


@dataclass(frozen=True)
class Wait(Policy):
    """Emit an impression once, when its window closes, with its final label.

    The labels are right and the model is old: it has learned nothing of the last window. Any learner can be used,
    and any label.

    Parameters
    ----------
    measured : float
        Share of impressions of which the metrics score the prediction made when they came. 0 turns this off: then
        predictions made at the end of the window are scored, by a model that knows more than one that had to
        answer when the impression came.
    """

    kind: ClassVar[str] = "wait"
    corrects: ClassVar[Literal["none", "feedback", "all"]] = "none"
    weighs: ClassVar[bool] = False

    measured: float = _MEASURED

    @property
    def early_s(self) -> float | None:
        """None: the first row goes out when the window closes."""
        return None

    @property
    def measured_share(self) -> float:
        """Share of impressions that go out at once, only to be predicted."""
        return self.measured

    def _check(self) -> None:
        _check_share(self, self.measured)


@dataclass(frozen=True)
class WhenKnown(Wait):
    """Emit an impression once, as soon as its feedback comes; without any, when its window closes.

    For labels with a value, where feedback tells every outcome, good or bad: an arrival, late or not; a payment or its
    refusal. Labels are right, and as fresh as they can be. Where feedback tells only one outcome, as clicks do, and
    silence is the other, the one would be learned early and the other late: use `Wait`, or a policy that makes up
    for it. Any learner can be used.

    Parameters
    ----------
    measured : float
        As of `Wait`.
    """

    kind: ClassVar[str] = "when_known"
    at_feedback: ClassVar[bool] = True


@dataclass(frozen=True)
class FakeNegativeWeighted(Policy):
    r"""Emit every impression at once as a negative, and again as a positive when feedback comes.

    The stream then holds each positive twice, once with the wrong label. Importance weights make up for it: with
    the model's own prediction :math:`f`, taken as a constant, a positive weighs :math:`1 + f` and a negative
    :math:`(1 - f)(1 + f)`.

    Notes
    -----
    In the emitted stream a label is positive with probability :math:`b = p / (1 + p)`; the weights are
    :math:`p / b` and :math:`(1 - p) / (1 - b)`, with :math:`f` in the place of the unknown :math:`p`.
    That holds of many rows, not of the rows of an hour: while nothing is shown and feedback still comes, all are
    positive. So the learner has to remember far more than the delay of feedback, and more than such an hour.

    References
    ----------
    S. I. Ktena et al. (2019), Addressing delayed feedback for continuous training with neural networks in CTR
    prediction, RecSys, the section on importance sampling and its fake negative weighted loss.
    """

    kind: ClassVar[str] = "fake_negative_weighted"


@dataclass(frozen=True)
class FakeNegativeCalibrated(Policy):
    r"""Emit as `FakeNegativeWeighted` does, learn the emitted labels as they are, and correct what is predicted.

    The network estimates :math:`b = p / (1 + p)`, so predictions are :math:`p = b / (1 - b)`, at most 0.9: where
    corrections come in a run, :math:`b` is above one half for a while and means no chance. Losses have no weights,
    which makes it steady; predictions of rare feedback are best served by it.

    References
    ----------
    S. I. Ktena et al. (2019), Addressing delayed feedback for continuous training with neural networks in CTR
    prediction, RecSys, the section on fake negative calibration.
    """

    kind: ClassVar[str] = "fake_negative_calibrated"


@dataclass(frozen=True)
class _After(Policy):
    """A policy that looks at an impression some time after it came.

    Parameters
    ----------
    after : float or str, optional
        When, in seconds or as "10m"; by default after a hundredth of the window.
    measured : float
        Share of impressions of which the metrics score the prediction made when they came. With 0, they score
        that made `after` later.
    """

    after: float | str | None = None
    measured: float = _MEASURED

    @property
    def early_s(self) -> float | None:
        """Age at which the first row goes out, in seconds."""
        return _AFTER_SHARE * self.window_s if self.after is None else seconds(self.after)

    @property
    def measured_share(self) -> float:
        """Share of impressions that go out at once, only to be predicted."""
        return self.measured

    def _check(self) -> None:
        _check_share(self, self.measured)
        early_s = self.early_s
        assert early_s is not None
        if self.after is not None and not 0 < early_s < self.window_s:
            window = f" of {self.window_s:g} s" if math.isfinite(self.window_s) else ""
            raise JobError(
                f"{type(self).__name__}: after must lie within the window{window}, got {self.after!r}"
            )


@dataclass(frozen=True)
class DelayedFeedback(_After):
    r"""Model the delay too: feedback comes with chance :math:`p(x)`, after an exponential time of rate
    :math:`\lambda(x)`.

    `after` some time each impression is emitted: with its feedback at delay :math:`d`, or unanswered at age
    :math:`e`, which says less than a negative, the less the slower feedback is. It is emitted again with its
    outcome, when feedback comes or the window closes, and teaches what that adds to what was said before. The
    likelihoods of both rows multiply to that of the outcome, so that no delay, whatever its law, biases
    :math:`p` once windows have closed.

    Parameters
    ----------
    after : float or str, optional
        When to look first, in seconds or as "10m"; by default after a hundredth of the window.
    measured : float
        Share of impressions of which the metrics score the prediction made when they came; with 0, they score
        that made `after` later.

    Notes
    -----
    Negative log likelihoods, of feedback at delay :math:`d`: :math:`-\log p - \log\lambda + \lambda d`; of none
    until age :math:`e`: :math:`-\log(1 - p + p e^{-\lambda e})`; of none within the window: :math:`-\log(1 - p)`.
    A second row has its own less that of the first, by the chain rule.

    References
    ----------
    O. Chapelle (2014), Modeling delayed feedback in display advertising, KDD, sections 3 and 4: the model and the
    likelihood of what is observed. There a whole log is fitted again with the ages of the day; the form for a
    stream, two rows that add up, is the chain rule's.
    """

    kind: ClassVar[str] = "delayed_feedback"
    corrects: ClassVar[Literal["none", "feedback", "all"]] = "all"


@dataclass(frozen=True)
class ElapsedTimeSampling(_After):
    r"""Emit an impression `after` some time with the label that it has then, and again if feedback comes later.

    Fast feedback is right at once, and only slow feedback makes fake negatives. Importance weights make up for
    these: :math:`1 + p_{dp}` for a positive and :math:`(1 + p_{dp})\,p_{rn}` for a negative, where :math:`p_{dp}`
    is the chance that feedback comes, and late, and :math:`p_{rn}` the chance that a negative is a real one.

    Parameters
    ----------
    after : float or str, optional
        When to look, in seconds or as "10m"; by default after a hundredth of the window. Longer makes fewer fake
        negatives and an older model.
    measured : float
        Share of impressions of which the metrics score the prediction made when they came; with 0, they score
        that made `after` later.

    References
    ----------
    J.-Q. Yang et al. (2021), Capturing delayed feedback in conversion rate prediction via elapsed-time sampling,
    AAAI, the section on the importance weights of ES-DFM.
    """

    kind: ClassVar[str] = "elapsed_time_sampling"


POLICIES: dict[str, type[Policy]] = {
    policy.kind: policy
    for policy in (
        Wait,
        WhenKnown,
        FakeNegativeWeighted,
        FakeNegativeCalibrated,
        DelayedFeedback,
        ElapsedTimeSampling,
    )
}
"""By name."""


def policy_of(wanted: str | Policy, window_s: float, lateness_s: float = 0.0) -> Policy:
    """Return a policy for a window, given its name or itself.

    Parameters
    ----------
    wanted : str or Policy
    window_s : float
        How long after its impression feedback counts.
    lateness_s : float
        How much later than its own time feedback may arrive and be taken.

    Raises
    ------
    JobError
        If there is no policy of that name, or its options do not go with the window.

    Examples
    --------
    >>> policy_of("elapsed_time_sampling", 3600).early_s
    36.0
    """
    if isinstance(wanted, str):
        if wanted not in POLICIES:
            raise JobError(f"policy must be one of {list(POLICIES)}, got {wanted!r}")
        wanted = POLICIES[wanted]()
    if not isinstance(wanted, Policy):
        raise JobError(f"policy must be a name, or such as ElapsedTimeSampling(after='15m'), got {wanted!r}")
    return wanted.within(window_s, lateness_s)


def _check_share(policy: Policy, share: float) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise JobError(f"{type(policy).__name__}: measured must be a share from 0 to 1, got {share!r}")
