"""Videos -> files that are made from them once: re-encoded videos and optical flow."""
