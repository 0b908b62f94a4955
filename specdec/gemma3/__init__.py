"""Gemma 3: its shape, and the numpy model that all devices are checked against."""
