"""Serves: a small control plane that speaks the Kubernetes API."""
