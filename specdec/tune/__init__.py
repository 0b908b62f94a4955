"""Finding the fastest settings for a machine and a pair by trying them within a time budget."""
