"""What the cluster says: objects decoded and validated, and the snapshot they make."""
