"""Who may ask, and who can reach the server at all."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onstream.errors import AccessError, JobError

__all__ = ["Access"]


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask, and who can reach the server at all.

    Parameters
    ----------
    tokens : sequence of str
        A request must bear one of them ("Authorization: Bearer TOKEN"); with none, no token is asked.
    certificate, key : path, optional
        PEM files of the server; with them every wire speaks TLS.
    client_ca : path, optional
        PEM file of the authority whose client certificates are asked for (mutual TLS).
    insecure : bool
        Whether an address other than loopback may be bound with neither tokens nor mutual TLS.

    Raises
    ------
    JobError
        If the parts do not go together, or a file cannot be read.
    """

    tokens: Sequence[str] = ()
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        """Check that the parts go together."""
        if any(not token or not token.isascii() or token != token.strip() for token in self.tokens):
            raise JobError("a token must be ASCII text without spaces around it")
        if (self.certificate is None) != (self.key is None):
            raise JobError("TLS needs both a certificate and its key")
        if self.client_ca is not None and self.certificate is None:
            raise JobError("mutual TLS needs the server's own certificate and key too")
        for path in (self.certificate, self.key, self.client_ca):
            if path is not None and not Path(path).is_file():
                raise JobError(f"there is no file {str(path)!r}")

    @property
    def tls(self) -> bool:
        """Whether the wires speak TLS."""
        return self.certificate is not None

    def check_host(self, host: str) -> None:
        """Raise JobError if binding to `host` would let strangers in unasked."""
        if self.tokens or self.client_ca or self.insecure or _is_loopback(host):
            return
        raise JobError(
            f"refusing to listen on {host!r}, which others can reach, with neither a token nor client "
            f"certificates; set one (--token-file, --client-ca), or say --insecure"
        )

    def check_bearer(self, authorization: str | bytes | None) -> None:
        """Raise AccessError unless the value of the header "authorization" bears a token, if one is asked."""
        if not self.tokens:
            return
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        # Every token is compared, so that the time taken tells nothing about them.
        matches = [hmac.compare_digest(token.strip(), known.encode()) for known in self.tokens]
        if scheme.lower() != b"bearer" or not any(matches):
            raise AccessError("a valid bearer token is needed")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
