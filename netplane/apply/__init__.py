"""Writes to a kernel: restore and nft transactions, namespaces, conntrack, sysctl."""
