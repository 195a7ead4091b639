"""The stages that write profiles and their embeddings."""
