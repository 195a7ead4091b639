"""The report: one HTML page that answers first and shows its evidence below, with long tables as CSV files beside it."""
