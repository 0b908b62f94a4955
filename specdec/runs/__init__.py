"""Runs over files of prompts: read as a stream, written line by line, resumed."""
