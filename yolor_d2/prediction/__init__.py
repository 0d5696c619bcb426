"""Prediction over long inputs: what is read, what is written as it comes, how it is gone on with.

`sources` finds files, `video` reads and writes videos, `outputs` writes detections as they come,
`state` remembers how far a command has come, `tracking` gives identities, and `run` joins
them.
"""
