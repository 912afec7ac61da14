"""Measuring models on tracks: `sepcli evaluate`, and the validation of a training run.

    evaluate     models x seeds x sweep x tracks -> rows
    scoring      a track, and what a model, an oracle, the mix or silence makes of it -> scores
    scorers      references and estimates -> the scores of each stem
    runs         the request, and the runs of models that it stands for
    evaluator    a run -> a model that is loaded once; a run and a track -> a row
    workers      the evaluator's tasks, one after another or in several processes
    rows         the scores of a track, kept in rows.jsonl so that a run can go on; CSV
    comparison   rows -> groups -> tables and pictures
    validation   the mean score of a Separator in memory, for the training loop
    listening    a test for human listeners, and their opinions
    attention    what a network attends to in a song, and its picture: `sepcli inspect`
    robustness   how much noise a codec's latents bear: `sepcli robustness`

The mathematics is in metrics/.
"""
