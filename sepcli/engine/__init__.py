"""How a track of any length goes through a model: the contract of separators, segments, ensembles, devices."""

# Raised by every change after which the same model gives other samples for the same file and settings. The
# manifest records it: stems that another version made are made again (batch/decisions.py).
ENGINE_VERSION = 2
