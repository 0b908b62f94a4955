"""Training a draft to agree with a target (PyTorch, extra `distil`); nothing of it runs later."""
