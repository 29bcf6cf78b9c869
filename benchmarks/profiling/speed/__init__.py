"""Ours against the usual way, on this machine: a case is a pair of functions that do the same work."""
