"""Checkpoints on disk <-> our state dicts."""
