"""``python -m netplane``."""

from netplane.cli.main import entry

entry()
