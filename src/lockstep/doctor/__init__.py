"""A look at the machine: what works, what is slow, and what mends it."""
