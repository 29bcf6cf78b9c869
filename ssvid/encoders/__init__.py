"""Clip -> Features: one file per family, found by the registry."""
