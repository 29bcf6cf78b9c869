"""Video files -> clips -> batches: everything from the disk to the first tensor on the device."""
