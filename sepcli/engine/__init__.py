"""How a track of any length goes through a model: the contract of separators, chunks, ensembles, devices."""
