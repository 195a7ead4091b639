"""Build the DuckDB warehouse with dbt and read it; no other package opens a warehouse file by itself."""
