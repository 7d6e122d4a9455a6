"""The templates of the bench: peers' rule files, the report, the plots (``templates/bench/``)."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2

_DIRECTORY = Path(__file__).parent.parent / "templates" / "bench"


@functools.cache
def template(name: str) -> jinja2.Template:
    """The template of this file name; values are escaped in SVG and nowhere else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DIRECTORY),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(enabled_extensions=("svg.j2",), default=False),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
