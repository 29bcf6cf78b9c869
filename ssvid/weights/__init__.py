"""Checkpoints on disk <-> encoders. A file is known by its keys, never by its name."""
