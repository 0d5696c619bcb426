"""The core of an invented task: the area of each object as a number."""

import torch
import torch.nn.functional as F
from torch import nn

from yolor_d2.networks.tasks import TaskBranch


class AreaBranch(TaskBranch):
    """One number a cell and anchor: the logarithm of the area of the box there, in pixels."""

    def __init__(self, inputs, gain):
        super().__init__(gain)
        self.num_anchors = inputs.num_anchors
        self.predict = nn.ModuleList(nn.Conv2d(c, inputs.num_anchors, 1) for c in inputs.channels)

    def forward(self, features, windows):
        return [predict(x) for x, predict in zip(features, self.predict)]  # (N, A, H, W)

    def losses(self, output, truth, targets):
        places = (targets.image, targets.anchor, targets.row, targets.column)
        by_level = zip(*(x.split(targets.sizes) for x in places))
        found = torch.cat([x[where] for x, where in zip(output, by_level)])
        wanted = truth.fields["areas"][targets.number].log()
        loss = F.smooth_l1_loss(found, wanted) if len(found) else found.sum()
        return {"loss_area": self.gain * loss}

    def decode(self, output, image, found):
        flat = torch.cat([x[image].flatten() for x in output])
        return flat[found.rows].exp()
