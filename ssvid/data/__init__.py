"""Video files -> clips -> batches: everything between a disk and the first tensor on the device."""
