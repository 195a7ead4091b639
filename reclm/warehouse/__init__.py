"""The only door to DuckDB: building it with dbt, reading it, and what dbt reads besides the landing zone."""
