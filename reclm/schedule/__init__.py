"""The tasks, callbacks and shared parts of the DAGs in `dags/`."""
