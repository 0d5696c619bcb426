"""Prediction over long inputs: what is read, what is written as it comes, how it is resumed.

`sources` finds files, `video_reader` reads videos, `detector` detects, `result` has the detections
of an image or a frame; `text_files`, `coco_files`, `folders` and `video_writer` write it; `state`
remembers how far a command has come, `tracking` gives identities, and `run` joins them.
"""
