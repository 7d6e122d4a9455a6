"""Makes plain ``iptables`` be the one variant or the other, as update-alternatives(8) would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from netplane.apply.tools import find

Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
_PROGRAMS = ("iptables", "ip6tables")
_VERBS = ("", "-save", "-restore")


def use_iptables(variant: Variant, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put links ``iptables``, ``iptables-save``... to a variant's programs first in PATH.

    Skips the calling test, with the reason, where the variant is not installed.
    """
    for program in _PROGRAMS:
        for verb in _VERBS:
            target = find(f"{program}-{variant}{verb}")
            if target is None:
                pytest.skip(f"{program}-{variant}{verb} is not installed")
            (folder / f"{program}{verb}").symlink_to(target)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
