"""Answers -> numbers: average precision, segments, alignment. These functions see only arrays."""
