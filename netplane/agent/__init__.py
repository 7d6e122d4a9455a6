"""Keeps a node true: sources, the one loop, repair, health, metrics."""
