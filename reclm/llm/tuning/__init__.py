"""Tuning the language model: supervised, then by reinforcement learning."""
