"""Pretrained weights: the catalogue, downloads, and checkpoints read as plain data. Knows no neural network."""
