"""A command line's options as words of another one: of a unit file, of a container."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import click
from click.core import ParameterSource

_CHOSEN = frozenset({ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT})
_PATHS = frozenset({"filenames", "kubeconfig", "config_path"})


def chosen(ctx: click.Context, *, leave_out: Collection[str]) -> list[str]:
    """The options that were set here or in this shell's environment; paths become absolute.

    Args:
        ctx: Of the call.
        leave_out: Parameters that are not to be said.
    """
    words = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        source = ctx.get_parameter_source(name)
        if name not in leave_out and source in _CHOSEN and isinstance(parameter, click.Option):
            words += _words(parameter, ctx.params[name])
    return words


def _words(option: click.Option, value: object) -> list[str]:
    """One option with its value, repeated as often as it has some."""
    flag = max(option.opts, key=len)
    if option.count:
        return [flag] * int(str(value))
    if option.is_flag:
        return [flag] if value else []
    values = value if isinstance(value, tuple) else (value,)
    if option.name in _PATHS:
        values = tuple(str(Path(str(path)).absolute()) for path in values)
    return [f"{flag}={str(v).lower() if isinstance(v, bool) else v}" for v in values]
