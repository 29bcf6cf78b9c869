"""Clips and a frozen encoder -> a Bench: arrays of features, beside those of the controls."""
