"""Plain scalars mean what go-yaml v2 reads."""

from __future__ import annotations

import pytest

from netplane.core.model.yaml_scalar import NotFiniteError, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("NULL", None),
        ("true", True),
        ("Yes", True),
        ("ON", True),
        ("off", False),
        ("No", False),
        ("tRue", "tRue"),
        ("y", "y"),
        ("80", 80),
        ("-80", -80),
        ("+80", 80),
        ("0", 0),
        ("-0", 0),
        ("010", 8),
        ("0o10", 8),
        ("0x1F", 31),
        ("-0x1F", -31),
        ("0b101", 5),
        ("1_000", 1000),
        ("08", 8),
        ("80.0", 80),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000),
        ("1e-3", 0.001),
        ("12e4567", "12e4567"),
        ("1" * 5000, "1" * 5000),
        ("9" * 25, float("9" * 25)),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::1"),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("-", "-"),
        (".", "."),
        ("+.inf.", "+.inf."),
        ("web", "web"),
    ],
)
def test_value_and_type(text: str, value: object) -> None:
    resolved = resolve(text)
    assert resolved == value
    assert type(resolved) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".inf", "-.inf", "+.Inf"])
def test_not_finite(text: str) -> None:
    with pytest.raises(NotFiniteError, match="not a number that JSON has"):
        resolve(text)
