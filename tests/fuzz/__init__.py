"""Damaged and hostile files for whatever reads files: no crash, no hang, no allocation out of proportion.

    python -m tests.fuzz checkpoint --count 20000 --seed 1      the long run; a finding is an exit code of 1

A target (`targets.py`) is a function from a file's bytes to nothing, with some intact files to begin with.
Input number n of a seed is the same on every machine: `--first n --count 1` does it again, `--save` writes it.
"""
