"""`famba-bench`: kernels, models and training steps, timed in turns beside what else is installed."""
