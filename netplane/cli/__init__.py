"""Drives: one file per command."""
