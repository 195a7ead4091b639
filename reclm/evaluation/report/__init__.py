"""Write the report: an HTML page with the answers first and the evidence below, and its long tables as CSV files."""
