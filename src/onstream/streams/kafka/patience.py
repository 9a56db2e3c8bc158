"""Which errors of a broker are waited for, for how long, and how the others are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from onstream.errors import StreamError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["Patience"]

T = TypeVar("T")

# By name, so that a version of confluent-kafka that has not all of them serves too.
_ACCESS = (
    "_AUTHENTICATION",
    "_SSL",
    "SASL_AUTHENTICATION_FAILED",
    "UNSUPPORTED_SASL_MECHANISM",
    "ILLEGAL_SASL_STATE",
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
)
_HOPELESS = (
    "_FATAL",
    "_INVALID_ARG",
    "TOPIC_EXCEPTION",
    "INVALID_GROUP_ID",
    "FENCED_INSTANCE_ID",
    "INCONSISTENT_GROUP_PROTOCOL",
    "PRODUCER_FENCED",
    "_FENCED",
    "UNSUPPORTED_VERSION",
)


class Patience:
    """Wait for a broker that does not answer, for a bounded time; give up at once where waiting is no use.

    Parameters
    ----------
    servers : str
        As they are told in errors.
    limit_s : float
    note : callable
        Receives one sentence when waiting begins and when it ends.
    monotonic : callable, optional
        Seconds that never go back.
    """

    def __init__(
        self,
        servers: str,
        limit_s: float,
        note: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._limit_s = limit_s
        self._note = note
        self._monotonic = monotonic
        self._since: float | None = None
        self._said = ""

    @property
    def tried(self) -> bool:
        """Whether something is being waited for."""
        return self._since is not None

    def failed(self, error: KafkaError | Any) -> None:
        """Begin to wait, or go on waiting, because of an error.

        Raises
        ------
        StreamError
            If the error does not go away by waiting, or has been waited for too long.
        """
        name, text = error.name(), error.str()
        if name in _ACCESS:
            raise StreamError(
                f"Kafka at {self._servers!r} refuses: {text} ({name}); look at security.protocol, sasl.* and ssl.* "
                f"in config=, and at what the broker allows this user"
            )
        if error.fatal() or name in _HOPELESS:
            raise StreamError(f"Kafka at {self._servers!r}: {text} ({name})")
        self._said = f"{text} ({name})"
        if self._since is None:
            self._since = self._monotonic()
            self._note(f"Kafka at {self._servers!r}: {self._said}; waiting for up to {self._limit_s:g} s")
        self.check()

    def check(self) -> None:
        """Raise StreamError if the wait has been too long."""
        if self._since is not None and self._monotonic() - self._since > self._limit_s:
            raise StreamError(
                f"Kafka at {self._servers!r} has not answered for {self._limit_s:g} s: {self._said}; "
                f"patience_s= says how long to wait"
            )

    def answered(self) -> None:
        """End the wait, if there was one."""
        if self._since is not None:
            waited_s = self._monotonic() - self._since
            self._since = None
            self._note(f"Kafka at {self._servers!r} answers again, after {waited_s:.1f} s")
