"""Files and directories of manifests as the source of changes."""
