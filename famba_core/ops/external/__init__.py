"""Backends of other projects, for comparison."""
