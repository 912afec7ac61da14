"""Samples and files: decoding, encoding, formats, tags, channels, sample rates and levels."""
