"""What the DAGs in `dags/` lean on: stage calls with plain results, callbacks, and the names they share."""
