"""Target models: they check whole runs in one pass and decide every token."""
