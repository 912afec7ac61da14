"""Writes state.th and decoded.safetensors with the real diffq; see README.md. Not run by the tests."""

from pathlib import Path

import torch
from diffq import DiffQuantizer, restore_quantized_state
from safetensors.torch import save_file

HERE = Path(__file__).parent
BITS = {"0.weight": (2, 3, 5, 8), "1.weight_ih_l0": (4, 9, 11, 14), "1.weight_hh_l0": (6,), "2.weight": (2,)}


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv1d(2, 40, 32), torch.nn.LSTM(16, 12), torch.nn.Linear(24, 16))


torch.manual_seed(0)
model = network()
quantizer = DiffQuantizer(model, group_size=8, min_size=0.0012)  # MiB: over 314 values
for module_name, module in model.named_modules():
    for name, logit in module.named_parameters(recurse=False):
        if name.endswith("_diffq"):
            choice = torch.tensor(BITS[f"{module_name}.{name.removesuffix('_diffq')}"], dtype=torch.float32)
            bits = choice[torch.randint(len(choice), logit.shape)]
            logit.data = torch.logit((bits - 2) / 13, eps=1e-4)
state = quantizer.get_quantized_state()
state["__quantized"] = True  # as demucs.states.get_state marks it
torch.save(state, HERE / "state.th")

decoded = network()
restore_quantized_state(decoded, state)
save_file(decoded.state_dict(), HERE / "decoded.safetensors")
