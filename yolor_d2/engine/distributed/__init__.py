"""The processes of a training: how they start, talk to each other, watch each other, and end.

`launch` starts them or joins those that `place` finds in the environment; `processes` is what they
tell each other, `watch` names the one that dies or hangs by its `heartbeat` and by what `progress`
notes, `interrupt` ends a run at a signal, and `lock` keeps a second run out of a folder.
"""
