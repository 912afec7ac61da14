"""A run over many inputs: which files, what they become, what stands already, and one track after another."""

DEFAULT_TEMPLATE = "{model}/{track}/{stem}.{ext}"  # of outputs; here because a help page imports little
