"""Whose an element, a chain or a set is: the service port it was made for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeAlias

from netplane.core.nftables.frontends import PROTOCOLS, Frontend, Side, frontends, label_of
from netplane.core.nftables.layout import SETS, Elements, Key, Keys, Values, Verdict

_KEYS = {layout.name: layout.keys for layout in SETS}
_VERDICTS = (
    "services",
    "nodeports",
    "cluster-choice",
    "local-choice",
    "nodeport-cluster-choice",
    "nodeport-local-choice",
)
_BALANCED = ("services", "nodeports")
_FRONTENDS = (*_BALANCED, "no-endpoints", "no-endpoint-nodeports")
_SLOTS = tuple(layout.name for layout in SETS if layout.values is Values.SLOTS)
_STICKY = "sticky-"
_new = tuple.__new__

#: An endpoint's address and port, and the protocol's number.
_Endpoint: TypeAlias = tuple[str, int, int]


class Owner(NamedTuple):
    """A service port: its label and its protocol's name."""

    label: str
    protocol: str


Finder: TypeAlias = Callable[[Key], Owner | None]


class Owners:
    """Finds the owner by what the tables say, the first of them that knows.

    Frontends carry it; the indexes for everything else are made when first asked for.
    """

    def __init__(self, *sides: Side) -> None:
        self._sides = sides

    def finder(self, name: str, keys: Iterable[Key]) -> Finder:
        """What tells the owner of an element of this set; None where nothing says.

        Args:
            name: The set.
            keys: All that it will be asked for.
        """
        match _KEYS[name]:
            case Keys.FRONTEND | Keys.PORT:
                return self._of_frontend
            case Keys.SOURCE:
                return lambda key: self._of_frontend(key[:3])
            case Keys.ADDRESS:
                # The other set of addresses is the node's own.
                return self._addresses.get if name == "cluster-ips" else _nobody
            case Keys.FLOW:
                owners = self._owners_of_backends({_backend(key) for key in keys})
                return lambda key: owners.get(_backend(key))

    def of_name(self, name: str) -> Owner | None:
        """The owner of a chain or set of session affinity; None of any other."""
        words = (self._identities.get(word) for word in name.split("-"))
        return next((owner for owner in words if owner is not None), None)

    def _of_frontend(self, key: Key) -> Owner | None:
        for side in self._sides:
            label = label_of(side, key)
            if label is not None:
                return Owner(label, PROTOCOLS[int(key[-2])])
        return None

    @functools.cached_property
    def _addresses(self) -> dict[Key, Owner]:
        """By the key of the set of cluster addresses."""
        found: dict[Key, Owner] = {}
        for side in self._sides:
            for key, owner in _owned(side):
                found.setdefault(key[:1], owner)
        return found

    @functools.cached_property
    def _identities(self) -> dict[str, Owner]:
        """By the word in the names of a service port's sticky chains and sets."""
        found: dict[str, Owner] = {}
        for side in self._sides:
            for name in _VERDICTS:
                for key, verdict in side.elements[name].items():
                    if isinstance(verdict, Verdict) and _STICKY in verdict.chain:
                        owner = self._of_frontend(key)
                        if owner is not None:
                            tail = verdict.chain.partition(_STICKY)[2]
                            found.setdefault(tail.partition("-")[0], owner)
        return found

    def _owners_of_backends(self, wanted: set[_Endpoint]) -> dict[_Endpoint, Owner]:
        """The first owner of each of these endpoints."""
        found: dict[_Endpoint, Owner] = {}
        backends = {(address, port) for address, port, _ in wanted}
        for side in self._sides:
            for name in _SLOTS:
                for key, value in side.elements[name].items():
                    if value is None or isinstance(value, Verdict) or backends.isdisjoint(value):
                        continue
                    protocol = int(key[-2])
                    for address, port in value:
                        endpoint = (address, port, protocol)
                        if endpoint in wanted and endpoint not in found:
                            owner = self._of_frontend(key)
                            if owner is not None:
                                found[endpoint] = owner
        return found


def owners_of(side: Side) -> set[Owner]:
    """Every service port with a frontend in a table."""
    return {owner for _, owner in _owned(side)}


def frontends_of(side: Side, owners: Collection[Owner]) -> dict[Owner, list[Frontend]]:
    """The frontends of these service ports; a list for each of them."""
    labels = {owner.label for owner in owners}
    # A table has more frontends than a change has: sort out by the comment alone first.
    fewer: Elements = {
        name: {
            key: verdict
            for key, verdict in side.elements[name].items()
            if isinstance(verdict, Verdict) and (not verdict.comment or verdict.comment in labels)
        }
        for name in _BALANCED
    }
    found: dict[Owner, list[Frontend]] = {owner: [] for owner in owners}
    for frontend in frontends(Side({**side.elements, **fewer}, side.chains)):
        mine = found.get(Owner(frontend.label, frontend.protocol))
        if mine is not None:
            mine.append(frontend)
    return found


def frontend_keys(side: Side) -> set[Key]:
    """The key of every frontend."""
    return {key for name in _FRONTENDS for key in side.elements[name]}


def is_sticky(side: Side, frontend: Frontend) -> bool:
    """Whether a frontend remembers its clients."""
    return any(_STICKY in verdict.chain for verdict in _verdicts(side, frontend))


def _nobody(_: Key) -> None:
    return None


def _owned(side: Side) -> Iterator[tuple[Key, Owner]]:
    """Every frontend's key and owner."""
    for name in _FRONTENDS:
        for key, verdict in side.elements[name].items():
            assert isinstance(verdict, Verdict)
            label = verdict.comment or str(label_of(side, key))
            # What Owner() does, without the call of a Python function for each Service.
            yield key, _new(Owner, (label, PROTOCOLS[int(key[-2])]))


def _verdicts(side: Side, frontend: Frontend) -> Iterator[Verdict]:
    for name in _VERDICTS:
        verdict = side.elements[name].get(frontend.key)
        if isinstance(verdict, Verdict):
            yield verdict


def _backend(key: Key) -> _Endpoint:
    """The endpoint of a hairpin flow."""
    return str(key[0]), int(key[3]), int(key[2])
