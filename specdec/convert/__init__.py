"""Importing models into the converted format."""
