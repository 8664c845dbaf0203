"""The figures of a report. Functions here take finished data frames and return matplotlib figures."""
