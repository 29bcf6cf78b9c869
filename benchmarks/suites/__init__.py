"""Names and YAML files -> the cells of a suite: a cell is a task with its probe."""
