"""Who may talk to a server."""

from __future__ import annotations

import hmac
import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None) -> None:
    """Refuse to listen where others can reach us without a token.

    Raises:
        ValueError: naming the address.
    """
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable()):
        raise ValueError(f"a token of {len(token)} characters: expected at least 8, printable ASCII")
    if token is None and not is_loopback(host):
        raise ValueError(
            f"{host or 'every address'} can be reached from other computers: give a token (--token-env NAME, "
            "with the token in that environment variable), or listen on 127.0.0.1"
        )


def same_token(given: object, token: str | None) -> bool:
    """Whether a token is right; takes as long for a wrong one."""
    if token is None:
        return True
    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def authorized(header: str | None, token: str | None) -> bool:
    """Whether ``Authorization: Api-Key <token>`` is right."""
    if token is None:
        return True
    kind, _, given = (header or "").partition(" ")
    return kind.lower() == "api-key" and same_token(given.strip(), token)
