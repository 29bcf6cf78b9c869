"""Memory and messages of a step on many processes: counted, anchored on few, and drawn."""
