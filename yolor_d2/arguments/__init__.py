"""What the commands take: one module for each of `yolor_d2.commands`, of the same name.

The docstring of a module is the command's help, with examples. It has `build_parser()`;
`parse_args(argv)`, which also checks what the options have to do with each other; and
`check_inputs(args)`, which raises for a file or folder that is named and not there. None of them
imports torch, numpy, OpenCV or Detectron2.
"""
