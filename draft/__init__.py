"""Draft models: they propose runs of tokens and never decide any."""
