"""A video and its transcript -> when each sentence is seen."""
