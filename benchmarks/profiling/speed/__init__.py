"""Our code against the usual way on this machine: a case is two functions with the same work."""
