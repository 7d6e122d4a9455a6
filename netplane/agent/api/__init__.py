"""A Kubernetes API server as the source of changes: who we are there, list, watch."""
