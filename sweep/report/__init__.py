"""Reports of a study: its tables, figures and page, and `famba-sweep status`."""
