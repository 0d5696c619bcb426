"""The commands, one module each with `main(argv)`; `tools/*.py` run them."""
