"""The version of the meaning of settings."""

# From 2 on, part of every trial's identity: results of another version are not reused, but trained again. Raise it when
# the same model, fusion, data and training settings give other numbers than before: after a corrected merge, another
# initialisation, or another order of random draws. A kernel that rounds differently is not a reason.
VERSION = 1
