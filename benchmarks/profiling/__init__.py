"""What the code costs, on this machine. Nothing imports this room."""
