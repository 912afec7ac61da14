"""Training any family: configuration, the loop, its state, and what a run leaves behind.

config   what a run is made of, from TOML; every field has a name, a unit and a check
setup    config -> network, data, objective, optimiser
loop     THE loop: knows objective(model, batch) -> Loss and nothing of separation
state    what must survive a kill -9; ema, schedule, distributed are parts of it
run      the folder that a run leaves: config.toml, metrics.jsonl, curves.png, model.safetensors
"""
