"""Makes plain ``iptables`` be the one variant or the other, as update-alternatives(8) would."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal

import pytest

from netplane.apply.tools import find, run
from tests.support.netns import new_netns, require

Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
_PROGRAMS = ("iptables", "ip6tables")
_VERBS = ("", "-save", "-restore")


def use_iptables(variant: Variant, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put links ``iptables``, ``iptables-save``... to a variant's programs first in PATH.

    Skips the calling test, with the reason, where the variant does not work.
    """
    require_iptables(variant)
    for program in _PROGRAMS:
        for verb in _VERBS:
            target = find(f"{program}-{variant}{verb}")
            assert target is not None, f"{program}-{variant}{verb} is not installed"
            (folder / f"{program}{verb}").symlink_to(target)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")


def break_program(folder: Path, name: str) -> Path:
    """Put one that always fails in the place of a program, in a folder that is first in PATH.

    Unlink what is returned, and it works again.
    """
    program = folder / name
    program.unlink(missing_ok=True)  # a link would lead to the host's own
    program.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def require_iptables(variant: Variant) -> None:
    """Skip the calling test, with the reason, where a variant does not work."""
    require()
    reason = _why_not(variant)
    if reason:
        pytest.skip(reason)


@functools.cache
def _why_not(variant: Variant) -> str:
    """Why a variant does not work here, "" where it does: newer kernels may lack legacy."""
    with new_netns() as namespace:
        for program in _PROGRAMS:
            name = f"{program}-{variant}"
            if find(name) is None:
                return f"{name} is not installed"
            done = run(namespace, [name, "-w", "-t", "nat", "-S"])
            if done.status != 0:
                return f"{name} does not work on this kernel: {done.stderr.strip()}"
    return ""
