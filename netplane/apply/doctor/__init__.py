"""Checking a machine before rules are written to it."""
