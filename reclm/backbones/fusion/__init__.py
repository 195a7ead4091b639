"""The initial vectors of users and items, from ids, content and profiles."""
