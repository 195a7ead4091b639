"""Teachers: the profiles that the language model learns from, by keywords, an endpoint or a table."""
