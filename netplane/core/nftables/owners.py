"""Whose an element, a chain or a set is: the service port it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netplane.core.nftables.frontends import PROTOCOLS, Frontend, Side, frontends, label_of
from netplane.core.nftables.layout import SETS, Key, Keys, Value, Verdict

_KEYS = {layout.name: layout.keys for layout in SETS}
_VERDICTS = (
    "services",
    "nodeports",
    "cluster-choice",
    "local-choice",
    "nodeport-cluster-choice",
    "nodeport-local-choice",
)
_STICKY = "sticky-"


class Owner(NamedTuple):
    """A service port: its label and its protocol's name."""

    label: str
    protocol: str


class Owners:
    """Finds the owner by what the tables say, the first of them that knows.

    Frontends carry it; the indexes for everything else are made when first asked for.
    """

    def __init__(self, *sides: Side) -> None:
        self._sides = sides
        self._addresses: dict[str, Owner] = {}
        self._backends: dict[tuple[str, int, int], Owner] = {}
        self._identities: dict[str, Owner] = {}
        self._indexed = False

    def of_element(self, name: str, key: Key) -> Owner | None:
        """The owner of an element of this set; None where nothing says."""
        match _KEYS[name]:
            case Keys.FRONTEND | Keys.PORT:
                return self._of_frontend(key)
            case Keys.SOURCE:
                return self._of_frontend(key[:3])
            case Keys.ADDRESS:
                self._index()
                return self._addresses.get(str(key[0]))
            case Keys.FLOW:
                self._index()
                return self._backends.get((str(key[0]), int(key[3]), int(key[2])))

    def of_name(self, name: str) -> Owner | None:
        """The owner of a chain or set of session affinity; None of any other."""
        self._index()
        words = (self._identities.get(word) for word in name.split("-"))
        return next((owner for owner in words if owner is not None), None)

    def _of_frontend(self, key: Key) -> Owner | None:
        for side in self._sides:
            label = label_of(side, key)
            if label is not None:
                return Owner(label, PROTOCOLS[int(key[-2])])
        return None

    def _index(self) -> None:
        if self._indexed:
            return
        self._indexed = True
        for side in self._sides:
            for frontend in frontends(side):
                owner = Owner(frontend.label, frontend.protocol)
                self._addresses.setdefault(frontend.address, owner)
                for verdict in _verdicts(side, frontend):
                    _, sticky, tail = verdict.chain.partition(_STICKY)
                    if sticky:
                        self._identities.setdefault(tail.partition("-")[0], owner)
            for key, value in _slots(side):
                found = self._of_frontend(key)
                if found is not None and value is not None and not isinstance(value, Verdict):
                    for address, port in value:
                        self._backends.setdefault((address, port, int(key[-2])), found)


def is_sticky(side: Side, frontend: Frontend) -> bool:
    """Whether a frontend remembers its clients."""
    return any(_STICKY in verdict.chain for verdict in _verdicts(side, frontend))


def _verdicts(side: Side, frontend: Frontend) -> Iterator[Verdict]:
    for name in _VERDICTS:
        verdict = side.elements[name].get(frontend.key)
        if isinstance(verdict, Verdict):
            yield verdict


def _slots(side: Side) -> Iterator[tuple[Key, Value]]:
    for name in ("endpoints", "local-endpoints", "nodeport-endpoints", "nodeport-local-endpoints"):
        yield from side.elements[name].items()
