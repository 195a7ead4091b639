"""Who writes the profiles that the language model learns from."""
