"""Whether a look at the kernel found more than the change that it was made for.

A change whose write is refused, because somebody was quicker, becomes a look, and a look writes
all that differs: the change, and what that somebody has damaged. What was meant tells them apart.
"""

from __future__ import annotations

from netplane.core.nftables.diff import WHOLE, Delta, ElementDelta
from netplane.core.nftables.layout import Key

_NOTHING = ElementDelta()


def exceeds(found: Delta, meant: Delta) -> bool:
    """Whether what differs is more than what was to be written, in whole or in part.

    Args:
        found: What makes the table as it was seen the one that is wanted.
        meant: What would have done that, had the table been as it was left.
    """
    if found.create or found.delete_table or found.program:
        return True
    if not _chains(found) <= _chains(meant):
        return True
    return any(
        _more(change, meant.elements.get(name, _NOTHING))
        for name, change in found.elements.items()
    )


def _chains(delta: Delta) -> set[str]:
    """The chains and the sets of remembered clients that are touched."""
    touched = {*delta.flush_chains, *delta.delete_chains, *delta.chains}
    return touched.union(delta.delete_affinity_sets, delta.add_affinity_sets)


def _more(found: ElementDelta, meant: ElementDelta) -> bool:
    """Whether one set is touched in more places; who meant a whole entry meant all its slots."""
    if found.flush:
        return not meant.flush
    ours = _places(meant)
    return any(place not in ours and (place[0], WHOLE) not in ours for place in _places(found))


def _places(change: ElementDelta) -> set[tuple[Key, int]]:
    return {
        *((key, WHOLE) for key, _ in (*change.delete, *change.add)),
        *change.delete_slots,
        *((key, slot) for key, slot, _ in change.add_slots),
    }
