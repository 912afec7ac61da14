"""Music to train on and to measure with: finding it, cutting windows from it, mixing and varying them.

    layouts   folders -> tracks                       (names, files, lengths; nothing is decoded)
    windows   a file, a time -> [C, T]                (by seeking; rate and channels as the model wants them)
    mixing    tracks, a step -> Batch [B, S, C, T]    (deterministic, by worker processes)
    augment   [B, S, C, T] -> [B, S, C, T]            (stretch.py changes the tempo)
    check     tracks -> what is wrong with them
    quality   tracks, a model -> which are kept       (filter.py is all of `dataset filter`)
    synthetic a seed -> tracks                        (composed, rendered and sung)

Knows files and tensors; nothing of networks, losses or training.
"""
