"""`famba-bench`: kernels, models and training steps, timed in turns with other projects that are installed."""
