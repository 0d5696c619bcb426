"""Class rows of a head, where a file and the network have different numbers of classes."""

from __future__ import annotations

from torch import Tensor


def count_classes(bias: Tensor | None, num_anchors: int) -> int | None:
    """Classes of a head, from its bias (A * (5 + K),); None when that is none."""
    if bias is None or bias.ndim != 1:
        return None
    outputs, rest = divmod(len(bias), num_anchors)
    return outputs - 5 if rest == 0 and outputs > 5 else None


def keep_class_rows(given: Tensor, initial: Tensor, num_anchors: int) -> Tensor | None:
    """Outputs of a head for another number of classes: box and objectness given, classes initial.

    Args:
        given: a tensor of a head with A * (5 + K1) outputs, along its first axis, or along the
            second of (1, A * (5 + K1), 1, 1).
        initial: the same of the network, with A * (5 + K2) outputs.
        num_anchors: A.

    Returns:
        A tensor shaped like `initial`; None when the two differ in more than the classes.
    """
    axis = 1 if initial.ndim == 4 and initial.shape[0] == 1 else 0
    if given.ndim != initial.ndim or axis >= given.ndim:
        return None
    rows, wanted = given.movedim(axis, 0), initial.movedim(axis, 0)
    if rows.shape[1:] != wanted.shape[1:] or len(rows) % num_anchors or len(wanted) % num_anchors:
        return None
    rows = rows.unflatten(0, (num_anchors, -1))
    result = wanted.clone().unflatten(0, (num_anchors, -1))
    if rows.shape[1] < 6:
        return None
    result[:, :5] = rows[:, :5].to(result)
    return result.flatten(0, 1).movedim(0, axis).contiguous()
