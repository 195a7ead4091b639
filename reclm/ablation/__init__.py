"""Compare writers of profiles: how well backbones rank with the profiles of each (`reclm ablate`)."""
