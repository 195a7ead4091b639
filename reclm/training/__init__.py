"""Train backbones: select on snapshot `select`, refit on `final` for measuring and on `serve` for serving."""
