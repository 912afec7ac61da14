"""A run over many inputs: which files, what they become, what stands already, and one track after another."""

# Of outputs; here because a help page imports little.
LAYOUTS = {
    "stems-by-track": "{model}/{track}/{stem}.{ext}",
    "tracks-by-stem": "{model}/{stem}/{track}.{ext}",
    "flat": "{model}/{track} - {stem}.{ext}",
}
DEFAULT_TEMPLATE = LAYOUTS["stems-by-track"]
STEMFILE_TEMPLATE = "{model}/{track}.{ext}"  # where one file has all stems
