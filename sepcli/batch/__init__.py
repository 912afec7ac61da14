"""A run over many inputs: which files, what they become, what stands already, and one track after another."""
