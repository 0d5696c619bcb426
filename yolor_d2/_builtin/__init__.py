"""The runtime that is used where Detectron2 is not installed.

It offers the names that `yolor_d2.d2` imports, for one process, with the same configuration, data
order, checkpoints and results. What it leaves out raises an error that says so. See
docs/runtimes.md.
"""
