"""Proves: nodes, pods and clients as network namespaces."""
