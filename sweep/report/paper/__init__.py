"""A study beside the published tables."""
