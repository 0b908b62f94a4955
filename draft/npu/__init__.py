"""The draft model on the NPU, or on an emulated array when asked for by name."""
