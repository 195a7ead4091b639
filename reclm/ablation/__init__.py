"""The comparison of writers: how much better each backbone ranks with the profiles of one writer or another (`reclm ablate`)."""
