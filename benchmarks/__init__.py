"""frozen features -> numbers.

Imports `ssvid` and is imported by nobody: an encoder never knows that it is measured.
"""
