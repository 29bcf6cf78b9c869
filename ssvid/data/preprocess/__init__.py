"""Videos -> files that are made of them once: re-encoded videos and optical flow."""
