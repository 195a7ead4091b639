"""The reward model: which of two profiles of an entity is the better one."""
