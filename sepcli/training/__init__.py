"""Training, for every family: settings, the loop, its state, and the folder of a run.

config       the settings of a run, from TOML
setup        settings -> network, data, objective, validation
beginning    the weights that a run begins with
objectives   what a step learns; a family may have its own
loop         THE loop: knows objective(model, batch) -> Loss and nothing of separation
optim, ema   the optimiser, and averages of the weights
state        what a run goes on from after a kill
run          the folder of a run: config.toml, metrics.jsonl, curves.png, model.safetensors, state.pt
train        all of that put together; distill prepares what a student learns from a teacher
publish      a run on the hub, with its model card
"""
