"""How far estimated stems are from the real ones: one file an idea, arrays in, decibels out.

Knows nothing of models, files or protocols; docs/evaluation.md has the formulas.
"""
