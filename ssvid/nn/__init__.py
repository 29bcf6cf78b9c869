"""Building blocks that two or more users share."""
