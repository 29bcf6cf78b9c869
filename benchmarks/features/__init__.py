"""Clips and a frozen encoder -> a Bench: features of the encoder and of its controls."""
