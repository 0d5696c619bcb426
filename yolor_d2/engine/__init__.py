"""Training.

`trainer` is one run from top to bottom; `parts` builds what it is made of, `hooks` act between its
iterations, and `step` is one iteration (`feed` brings its batch, `readout` its losses to the host).
`lengths`, `rates`, `batch_size`, `gpu` and `ignored_keys` turn the configuration into that of the
run; `optimizer`, `muon`, `schedule`, `ema`, `freeze` and `teacher` are the recipe. `distributed`
has the processes of a run, `monitoring` what it shows.
"""

from .trainer import Trainer

__all__ = ["Trainer"]
