"""Tasks on frozen features, with one file for each task."""
