"""`famba-sweep`: the command line of sweeps."""
