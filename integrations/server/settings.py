"""How a server behaves: one frozen dataclass, every field documented where it stands. Loads nothing."""

from __future__ import annotations

import ipaddress
import math
import secrets
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import BadInput

MIB = 2**20


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server. Values that make no sense raise `BadInput`."""

    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs a token; one is made where none is given."""
    port: int = 8000
    """0 takes a free one."""
    tokens: tuple[str, ...] = ()
    """Any of these, as `Authorization: Bearer …`, opens every route. Empty on loopback: no token is asked for."""
    served_name: str | None = None
    """The model's name for clients; None: its name in the catalog, or its file's."""
    library: str = "default"
    """The library that requests use which name none."""
    library_folder: Path | None = None
    """Where that one lies; None: among the named libraries."""
    libraries_root: Path | None = None
    """Where libraries with a name lie; None: the user's data folder."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may use, besides loopback, IP addresses and this machine's name."""
    allowed_origins: tuple[str, ...] = ()
    """Pages of other origins that may call the server from a browser, such as http://intranet:3000."""
    max_body: int = 8 * MIB
    """Most bytes of a request that is no upload."""
    max_upload: int = 256 * MIB
    """Most bytes of an upload."""
    requests_per_minute: int = 600
    """Of one address; 0 for no limit."""
    most_choices: int = 64
    """Most answers that one request may ask for: prompts times `n`."""
    request_timeout: float | None = None
    """Seconds after which a request ends that names no `timeout`; None: never."""
    grace: float = 10.0
    """Seconds that answers under way have to finish once the server is told to stop."""

    def __post_init__(self) -> None:
        for name, low, high in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise BadInput(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}.")
        if not 0 <= self.grace < math.inf:
            raise BadInput(f"grace must be a number of seconds, not {self.grace!r}.")
        # As browsers write an origin: http://x, not http://x/.
        origins = tuple(origin.rstrip("/").lower() for origin in self.allowed_origins)
        object.__setattr__(self, "allowed_origins", origins)
        if any(not token.isascii() or not token.strip() for token in self.tokens):
            raise BadInput(
                "A token is empty or not ASCII.", "Use letters and digits, or leave it out to have one made."
            )
        if not self.on_loopback and not self.tokens:
            object.__setattr__(self, "tokens", (secrets.token_urlsafe(24),))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


_WHOLE = (
    ("port", 0, 65_535),
    ("max_body", 1024, 2**40),
    ("max_upload", 1024, 2**40),
    ("requests_per_minute", 0, 10**9),
    ("most_choices", 1, 10_000),
)


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's own.

    >>> is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
