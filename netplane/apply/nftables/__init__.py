"""The nftables mode in a kernel: observe, compare, write, and keep."""
