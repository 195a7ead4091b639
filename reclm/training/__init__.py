"""Train backbones on the snapshots of the warehouse: select on one, refit on the other, one artifact a model."""
