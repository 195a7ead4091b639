"""The language model: tuning, reward, refinement, generation."""
