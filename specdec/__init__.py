"""The engine: tokens, runs, passes and costs; it knows no device."""
