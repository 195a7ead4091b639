"""Text as numbers: the sentence encoder and TF-IDF."""
