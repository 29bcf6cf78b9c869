"""batch -> Loss: one file per paper, found by the registry."""
