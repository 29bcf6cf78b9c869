"""Folders and lists -> Manifest. There is one file for each layout, which the registry finds."""
