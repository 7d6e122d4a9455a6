"""Plan to canonical iptables chains; parse of iptables-save; diff by chain."""
