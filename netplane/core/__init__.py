"""Decides. Pure: no clock, file, socket, process, thread or log; values in, values out."""
