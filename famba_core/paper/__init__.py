"""The published tables of Famba-V as CSV."""
