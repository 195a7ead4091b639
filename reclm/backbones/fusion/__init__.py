"""Make the initial user and item vectors of every network from ids, item texts, histories and profiles."""
