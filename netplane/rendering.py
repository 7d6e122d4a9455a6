"""The one Jinja2 environment: reads ``templates/`` once, and refuses foreign text in a rule.

A rule template may print only what ``safe`` lets through: integers, canonical addresses and
networks, chain and set names, lower-case words, and comments made of the characters Kubernetes
names are made of. Everything else raises: it is the last guard against injection, after
validation has already refused such objects.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import jinja2

_SAFE = re.compile(r"[A-Za-z0-9 _./:;,@|*+!#<>=&^\[\]()-]*\Z")


def safe(value: object) -> object:
    """Let through what may stand in a rule; raises AssertionError for anything else."""
    if type(value) is str:
        return _safe_text(value)
    if isinstance(value, int):
        return value
    raise _hole(value)


# A Service's name is printed in each of its rules: most of what is asked was asked just before.
@functools.lru_cache(maxsize=1024)
def _safe_text(text: str) -> str:
    if _SAFE.match(text):
        return text
    raise _hole(text)


def _hole(value: object) -> AssertionError:
    return AssertionError(f"{value!r:.100} must not reach a rule: validation has a hole")


def _directory() -> Path:
    """Where the templates are: inside the installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "templates"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "templates"


@functools.cache
def environment() -> jinja2.Environment:
    """The environment of rule templates: strict, autoescape off, every value through ``safe``."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_directory()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 (rules, not HTML; `finalize` is the guard)
        finalize=safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@functools.cache
def template(name: str) -> jinja2.Template:
    """The template of this path below ``templates/``."""
    return environment().get_template(name)
