"""The stages that write profiles and embeddings."""
