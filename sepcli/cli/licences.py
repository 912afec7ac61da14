"""The licence of a model's weights, said at its first use on this machine and not at every run.

What was said is noted in the cache folder, in a small file for each model. A licence that has changed is said
again.
"""

from __future__ import annotations

from sepcli.batch.request import Batch
from sepcli.errors import ModelError
from sepcli.system.remembered import recall, remember
from sepcli.weights.cache import own_folder


def license_text(batch: Batch) -> str:
    """The licence of the weights, in words without a full stop."""
    if batch.entry is None:
        return "not known here"
    note = f" ({batch.entry.license_note.rstrip('.')})" if batch.entry.license_note else ""
    return f"{batch.entry.license}{note}"


def new_license(batch: Batch) -> str:
    """The licence in a sentence where it was not said on this machine yet, else ""; it counts as said then."""
    text = f"Licence of the weights: {license_text(batch)}."
    try:
        file = own_folder("licences", batch.model.name).with_suffix(".json")
    except ModelError:  # there is no cache folder
        return text
    if recall(file, text) is not None:
        return ""
    remember(file, text, True)
    return text
