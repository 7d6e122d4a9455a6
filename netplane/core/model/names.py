"""What may be a name: DNS labels and subdomains, label values, port names, times.

The rules are those of the API server (k8s.io/apimachinery/pkg/util/validation). Whatever passes
them is safe in a comment, a chain name's hash and a terminal alike.
"""

from __future__ import annotations

import datetime as dt
import functools
import re

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[-a-z0-9]{0,13}[a-z0-9])?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SUBDOMAIN_LENGTH = 253


def is_label(text: str) -> bool:
    """Whether the text is a DNS-1123 label: a Service's, a namespace's, a port's name."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether the text is a DNS-1123 subdomain: a slice's, a Node's, a Pod's name."""
    return len(text) <= _SUBDOMAIN_LENGTH and _SUBDOMAIN.fullmatch(text) is not None


# The two below are for names that come again and again: namespaces, ports, the Nodes of endpoints.
# They give one string for all that are equal: of 100,000 Services that is a tenth of the memory.
# Names of objects come once or twice; remembering them costs more than checking them again.


@functools.lru_cache(maxsize=1 << 12)
def common_label(text: str) -> str | None:
    """A DNS-1123 label as one string for all its occurrences; None if it is not one."""
    return text if is_label(text) else None


@functools.lru_cache(maxsize=1 << 14)
def common_subdomain(text: str) -> str | None:
    """A DNS-1123 subdomain as one string for all its occurrences; None if it is not one."""
    return text if is_subdomain(text) else None


@functools.lru_cache(maxsize=1 << 12)
def is_label_value(text: str) -> bool:
    """Whether the text may be the value of a label, such as a zone; the empty one may not here."""
    return _LABEL_VALUE.fullmatch(text) is not None


@functools.lru_cache(maxsize=1 << 12)
def is_port_name(text: str) -> bool:
    """Whether the text is an IANA service name, as container ports and targetPort use them."""
    return _PORT_NAME.fullmatch(text) is not None


def canonical_time(text: str) -> str | None:
    """An RFC 3339 time in UTC to the second, so that text compares as time, or None.

    The API server writes just that form; files written by hand may have an offset or a fraction.
    """
    if _TIME.fullmatch(text):
        return text
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    try:
        return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:
        return None
