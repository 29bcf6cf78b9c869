"""Names and YAML files -> the cells of a suite. A cell is a task with its probe."""
