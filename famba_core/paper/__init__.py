"""The published results of Famba-V, as CSV files with a reader."""
