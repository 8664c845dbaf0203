"""Places where jobs run: this process, or worker processes that Ray Tune starts on a machine or a cluster."""
