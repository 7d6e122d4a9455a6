"""The iptables mode in a kernel: its programs, both variants, and who else writes."""
