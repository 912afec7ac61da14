"""Measuring models on tracks: `sepcli evaluate`, and the validation of a training run.

    evaluate     models x seeds x sweep x tracks -> rows
    scoring      one track under a model, an oracle, the mix or silence
    judges       what listens to it, and says how good each stem is
    validation   the mean score of a Separator in memory, for the training loop
    rows         what a track scored, kept in rows.jsonl so that a run goes on; CSV
    comparison   rows -> groups -> tables and pictures
    listening    stimuli of models for listeners, and the key to them (listening_key)
    webmushra    what listeners are asked, as a configuration of webMUSHRA
    opinions     what they answered -> means with intervals
    attention    what a network attends to in a song, and its picture: `sepcli inspect`
    workers      several tracks at once, in processes of their own

The mathematics is in metrics/.
"""
