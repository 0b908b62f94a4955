"""Comparing configurations on the same prompts: runs in turn, statistics, a report for people."""
