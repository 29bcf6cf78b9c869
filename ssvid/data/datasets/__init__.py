"""Folders and lists -> Manifest: one file per layout, found by the registry."""
