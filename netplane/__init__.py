"""netplane: a Kubernetes Service dataplane that people can read, rehearse, diff and trust."""

__version__ = "0.1.0"
