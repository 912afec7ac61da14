"""A run over many inputs: which files, what they become, what stands already, and one track after another."""

# Of outputs; here because a help page imports little.
DEFAULT_TEMPLATE = "{model}/{track}/{stem}.{ext}"
STEMFILE_TEMPLATE = "{model}/{track}.{ext}"  # where one file has all stems
