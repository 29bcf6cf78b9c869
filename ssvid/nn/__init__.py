"""Blocks shared by two users or more."""
