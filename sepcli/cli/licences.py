"""The licence of a model's weights, said at its first use on this machine and not at every run.

What was said is noted in the cache folder, in a small file for each model. A licence that has changed is said
again.
"""

from __future__ import annotations

import contextlib

from sepcli.batch.request import Batch
from sepcli.errors import ModelError
from sepcli.system.files import atomic_write
from sepcli.weights.cache import own_folder


def license_text(batch: Batch) -> str:
    """The licence of the weights, as a sentence."""
    if batch.entry is None:
        return "The licence of its weights is not known here."
    note = f" ({batch.entry.license_note.rstrip('.')})" if batch.entry.license_note else ""
    return f"Licence of the weights: {batch.entry.license}{note}."


def new_license(batch: Batch) -> str:
    """`license_text` where it was not said on this machine yet, else ""; it counts as said from now on."""
    text = license_text(batch)
    try:
        file = own_folder("licences", batch.model.name).with_suffix(".txt")
        if file.read_text(encoding="utf-8") == text:
            return ""
    except ModelError:  # there is no cache folder
        return text
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError), atomic_write(file, shared=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return text
