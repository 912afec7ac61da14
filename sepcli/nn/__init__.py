"""Building blocks that two families really use; nothing else."""
