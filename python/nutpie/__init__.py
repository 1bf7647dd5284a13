"""Fast sampling from posterior distributions."""
