"""What is kept of an object once it has been read: all that the snapshot is made of."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from netplane.core.model import wire
from netplane.core.model.pods import Selection, selection_from
from netplane.core.model.problem import Problem
from netplane.core.model.service import EndpointSlice, Service, ServiceName
from netplane.core.model.services import service_from
from netplane.core.model.slices import service_of, slice_of


class ServiceReading(msgspec.Struct, frozen=True, gc=False):
    """What reading a Service has come to.

    Attributes:
        service: The Service, None where it is refused or there is nothing to program.
        problems: Why it is refused.
        selection: How it selects Pods, if it does.
    """

    service: Service | None
    problems: tuple[Problem, ...] = ()
    selection: Selection | None = None


class SliceReading(msgspec.Struct, frozen=True, gc=False):
    """What reading a slice has come to.

    Attributes:
        service: The Service it says it feeds, None where it says none.
        slice: The slice, None where it is refused or not for us.
        problems: Of the parts left out.
    """

    service: ServiceName | None
    slice: EndpointSlice | None = None
    problems: tuple[Problem, ...] = ()


Reading: TypeAlias = ServiceReading | SliceReading


def read_service(service: wire.Service) -> ServiceReading:
    """Read a Service."""
    found, problems = service_from(service)
    return ServiceReading(found, problems, None if found is None else selection_from(service))


def read_slice(endpoint_slice: wire.EndpointSlice) -> SliceReading:
    """Read a slice."""
    service = service_of(endpoint_slice)
    if service is None:
        return SliceReading(None)
    return SliceReading(service, *slice_of(service, endpoint_slice))
