"""Language models: the one trained from scratch, and any other causal model."""
