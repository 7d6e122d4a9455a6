"""The node's configuration: KubeProxyConfiguration, flags, environment, with each value's origin.

A value comes from the first of these that sets it: a flag, an environment variable, the
configuration file, the default of kube-proxy. Nothing is read here: the commands hand in bytes
and settings. Networks are canonical text; durations are seconds.
"""

from netplane.config.document import ConfigFile, decode
from netplane.config.resolve import resolve
from netplane.config.values import (
    DEFAULT_ORIGIN,
    PRIMARY,
    Config,
    DetectLocalMode,
    Mode,
    Setting,
    Settings,
)

__all__ = [
    "DEFAULT_ORIGIN",
    "PRIMARY",
    "Config",
    "ConfigFile",
    "DetectLocalMode",
    "Mode",
    "Setting",
    "Settings",
    "decode",
    "resolve",
]
