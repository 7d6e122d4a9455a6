"""Netlink with nf_tables: transactions, and the kernel's notices of everybody's."""
