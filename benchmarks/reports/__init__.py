"""Result and run files -> tables, figures and pages.

No other room of `benchmarks` is imported here.
"""
