"""What a look found is told from the change it was made for."""

from __future__ import annotations

import pytest

from netplane.core.model.address import Family
from netplane.core.nftables.damage import exceeds
from netplane.core.nftables.diff import Delta, ElementDelta
from netplane.core.nftables.layout import Verdict
from tests.support.port_plans import backends

WEB = ("172.30.0.1", 6, 80)
DNS = ("172.30.0.53", 17, 53)
A, B = backends("10.0.0.1", "10.0.0.2")
PICK = Verdict("pick-2", "default/web:http")


def _of(element: ElementDelta) -> Delta:
    return Delta(family=Family.IPV4, elements={"endpoints": element})


NOTHING = Delta(family=Family.IPV4)
MEANT = Delta(
    family=Family.IPV4,
    elements={
        "endpoints": ElementDelta(
            delete=[(DNS, (A,))],
            add=[(WEB, (A, B))],
            delete_slots=[(DNS, 3)],
            add_slots=[(DNS, 1, B)],
        )
    },
    chains={"pick-2": ("dnat",)},
    delete_chains=("pick-3",),
    flush_chains=("pick-3",),
)


@pytest.mark.parametrize(
    ("found", "more"),
    [
        pytest.param(NOTHING, False, id="nothing"),
        pytest.param(MEANT, False, id="what-was-meant"),
        pytest.param(_of(ElementDelta(delete_slots=[(DNS, 3)])), False, id="a-part-of-it"),
        pytest.param(_of(ElementDelta(add_slots=[(WEB, 1, B)])), False, id="a-part-of-an-entry"),
        pytest.param(
            Delta(family=Family.IPV4, delete_chains=("pick-3",)), False, id="one-of-its-chains"
        ),
        pytest.param(
            _of(ElementDelta(add=[(("172.30.0.9", 6, 80), (A,))])), True, id="another-key"
        ),
        pytest.param(_of(ElementDelta(flush=True)), True, id="a-set-that-cannot-be-read"),
        pytest.param(
            Delta(family=Family.IPV4, elements={"services": ElementDelta(add=[(WEB, PICK)])}),
            True,
            id="another-set",
        ),
        pytest.param(
            Delta(family=Family.IPV4, chains={"pick-1": ("dnat",)}), True, id="another-chain"
        ),
        pytest.param(Delta(family=Family.IPV4, program="table ip"), True, id="the-program"),
        pytest.param(Delta(family=Family.IPV4, create=True), True, id="no-table"),
        pytest.param(Delta(family=Family.IPV4, delete_table=True), True, id="another-layout"),
        pytest.param(
            Delta(family=Family.IPV4, add_affinity_sets=("affinity-1",)), True, id="clients"
        ),
    ],
)
def test_damage_is_what_was_not_meant(found: Delta, more: bool) -> None:
    assert exceeds(found, MEANT) is more
