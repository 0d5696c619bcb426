"""One iteration: accumulation, precision, clipping, and what stops a run."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch
from torch import Tensor, nn

from yolor_d2.d2.utils import EventStorage
from yolor_d2.data.accumulation import Accumulation
from yolor_d2.engine.feed import Fed, Feed
from yolor_d2.engine.optimizer import nominal_fraction
from yolor_d2.engine.step import StepTrainer, precision_from_config


class Squares(nn.Module):
    """Loss weight^2 * x, summed over the batch: its gradient is 2 * weight * x."""

    def __init__(self, start: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start]))

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        x = sum(item["x"] for item in batch)
        return {"loss_a": (self.weight.square() * x).sum(), "loss_b": 0 * self.weight.sum()}


def batches(*values: float) -> list[list[dict]]:
    return [[{"x": x, "file_name": f"{i}.jpg"}] for i, x in enumerate(values)]


def make(values: list[list[dict]], *, lr: float = 0.1, **options) -> StepTrainer:
    model = Squares()
    return StepTrainer(model, values, torch.optim.SGD(model.parameters(), lr), **options)


# ---- Accumulation


def test_batches_of_a_warmup_by_hand():
    accumulation = Accumulation(full=4, warmup_iters=6)
    # 1 + 3 * i / 6 = 1, 1.5, 2, 2.5, 3, 3.5, rounded to even halves; then 4.
    assert [accumulation.batches_of(i) for i in range(8)] == [1, 2, 2, 2, 3, 4, 4, 4]
    assert [accumulation.batches_before(i) for i in range(9)] == [0, 1, 3, 5, 7, 10, 14, 18, 22]


@pytest.mark.parametrize(
    ("nominal", "batch", "full"), [(0, 8, 1), (64, 64, 1), (64, 8, 8), (64, 24, 3), (64, 200, 1)]
)
def test_batches_come_closest_to_the_nominal_number(cfg, nominal, batch, full):
    cfg.SOLVER.NOMINAL_BATCH, cfg.SOLVER.IMS_PER_BATCH = nominal, batch
    assert Accumulation.from_config(cfg).full == full


def test_decay_grows_with_the_images_of_an_iteration(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 24
    assert nominal_fraction(cfg) == 1  # off
    cfg.SOLVER.NOMINAL_BATCH = 64
    assert nominal_fraction(cfg) == 72 / 64


def test_a_negative_nominal_batch_is_refused(cfg):
    cfg.SOLVER.NOMINAL_BATCH = -1
    with pytest.raises(ValueError, match=r"SOLVER\.NOMINAL_BATCH is -1"):
        Accumulation.from_config(cfg)


def test_gradients_are_summed_and_the_optimiser_steps_once():
    trainer = make(batches(1.0, 2.0, 4.0, 100.0), accumulation=Accumulation(full=3))
    trainer.train(0, 1)
    # 1 - 0.1 * 2 * (1 + 2 + 4)
    assert trainer.model.weight.item() == pytest.approx(-0.4)
    # Losses are means over the batches.
    storage = trainer.storage
    assert storage.history("loss_a").latest() == pytest.approx(7 / 3)
    assert storage.history("total_loss").latest() == pytest.approx(7 / 3)


def test_warmup_takes_more_and_more_batches():
    # 1, 2, 2 and 3 batches.
    accumulation = Accumulation(full=3, warmup_iters=3)
    trainer = make(batches(1.0, *[0.0] * 6, 5.0), lr=0.25, accumulation=accumulation)
    trainer.train(0, 4)
    # 1 - 0.25 * 2 = 0.5 in the first iteration; the last one has the eighth batch: 0.5 * (1 - 2.5).
    assert trainer.model.weight.item() == pytest.approx(-0.75)


# ---- Precision


def test_bfloat16_on_the_cpu_computes_in_it_and_keeps_float32_weights():
    seen = []

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, batch):
            output = self.linear(torch.ones(2, 4))
            seen.append(output.dtype)
            return {"loss": output.float().square().mean()}

    model = Layer()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = StepTrainer(model, batches(1.0), optimizer, precision=torch.bfloat16)
    trainer.train(0, 1)
    assert seen == [torch.bfloat16]
    assert model.linear.weight.dtype == model.linear.weight.grad.dtype == torch.float32
    assert "grad_scaler" not in trainer.state_dict()


def test_precision_of_a_config(cfg):
    assert precision_from_config(cfg) is None
    cfg.SOLVER.AMP.ENABLED = True
    with pytest.raises(ValueError, match=r"'float16' needs a GPU.*'cpu'.*bfloat16"):
        precision_from_config(cfg)
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    assert precision_from_config(cfg) is torch.bfloat16
    cfg.SOLVER.AMP.DTYPE = "float8"
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE is 'float8'.*bfloat16"):
        precision_from_config(cfg)


class TestScaledGradients:
    """The scaler works on the CPU as well, though float16 itself is refused there."""

    def make(self, *values: float, **options) -> StepTrainer:
        trainer = make(batches(*values), precision=torch.float16, **options)
        assert trainer.grad_scaler.get_scale() == 65536
        return trainer

    def test_scaling_does_not_show_in_the_step(self):
        trainer = self.make(1.0)
        trainer.train(0, 1)
        assert trainer.model.weight.item() == pytest.approx(0.8)

    def test_clipping_sees_unscaled_gradients(self):
        trainer = self.make(1.0, clip_norm=0.5)
        trainer.train(0, 1)
        assert trainer.model.weight.item() == pytest.approx(0.95)
        assert trainer.storage.history("grad_norm").latest() == pytest.approx(2)

    @pytest.mark.parametrize("clip_norm", [0.0, 0.5])
    def test_a_gradient_that_overflows_is_skipped_and_lowers_the_scale(self, clip_norm):
        trainer = self.make(1e34, 0.0, clip_norm=clip_norm)  # 65536 * 2e34 is infinite in float32
        trainer.train(0, 2)
        assert trainer.model.weight.item() == 1
        assert trainer.grad_scaler.get_scale() == 32768
        assert trainer.storage.history("grad_scale").values()[0][0] == 32768

    def test_its_state_is_saved_and_loaded(self):
        first = self.make(1e34)
        first.train(0, 1)
        resumed = self.make(1.0)
        resumed.load_state_dict(first.state_dict())
        assert resumed.grad_scaler.get_scale() == 32768

    def test_states_of_other_precisions_are_taken(self):
        plain = make(batches(1.0))
        plain.load_state_dict(self.make(1.0).state_dict())
        self.make(1.0).load_state_dict(plain.state_dict())


# ---- Clipping


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, 0.8), (0.5, 0.95), (5.0, 0.8)])
def test_clipping_by_the_norm_of_all_gradients(clip_norm, expected):
    trainer = make(batches(1.0), clip_norm=clip_norm)
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(expected)
    # The norm before it is clipped.
    assert ("grad_norm" in trainer.storage.histories()) == (clip_norm > 0)


def test_a_negative_norm_is_refused():
    with pytest.raises(ValueError, match=r"SOLVER\.CLIP_NORM is -1"):
        make(batches(1.0), clip_norm=-1)


def test_an_infinite_norm_stops_the_run():
    trainer = make(batches(1e38), clip_norm=1.0)
    trainer.model.weight.register_hook(lambda gradient: gradient * 1e10)
    with pytest.raises(FloatingPointError, match="norm of the gradients is inf at iteration 0"):
        trainer.train(0, 1)
    assert trainer.model.weight.item() == 1


# ---- Guards and metrics


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_term_iteration_and_images(bad):
    trainer = make(batches(0.0, 0.0, 0.0, bad), accumulation=Accumulation(full=2))
    with pytest.raises(FloatingPointError) as caught:
        trainer.train(0, 2)
    message = str(caught.value)
    assert "iteration 1" in message and f"loss_a = {bad}" in message and "['3.jpg']" in message
    assert "2.jpg" not in message
    assert trainer.model.weight.item() == 1  # no step


class TestLateReading:
    """As on a GPU, where the numbers of an iteration are read in the next one."""

    def make(self, *values: float, **options) -> StepTrainer:
        trainer = make(batches(*values), **options)
        trainer.reads_late = True
        return trainer

    def test_figures_are_those_of_reading_at_once(self):
        early, late = make(batches(1.0, 2.0, 3.0), clip_norm=9.0), self.make(1, 2, 3, clip_norm=9.0)
        early.train(0, 3)
        late.train(0, 3)
        with late.storage:
            assert len(late.storage.history("loss_a").values()) == 2
            late.settle()
        names = set(early.storage.histories()) - {"data_time", "rank_data_time"}
        for name in names:
            assert early.storage.history(name).values() == late.storage.history(name).values()

    def test_a_loss_that_is_not_finite_is_found_in_the_next_iteration(self):
        trainer = self.make(0.0, math.nan, 0.0)
        with pytest.raises(FloatingPointError, match=r"iteration 1: loss_a = nan.*'1\.jpg'"):
            trainer.train(0, 3)
        assert trainer.iter == 2

    def test_and_before_anything_is_saved(self):
        trainer = self.make(0.0, math.nan)
        trainer.train(0, 2)
        with trainer.storage, pytest.raises(FloatingPointError, match="iteration 1"):
            trainer.read_all()

    def test_an_infinite_norm_is_found_too(self):
        trainer = self.make(1e38, 0.0, clip_norm=1.0)
        trainer.model.weight.register_hook(lambda gradient: gradient * 1e10)
        with pytest.raises(FloatingPointError, match="norm of the gradients is inf at iteration 0"):
            trainer.train(0, 2)

    def test_positives_are_put_by_their_names(self):
        trainer = self.make(1.0)
        trainer.model.positives = torch.tensor([3, 4])
        trainer.model.name_positives = lambda counts: dict(zip(("positives/a", "b"), counts))
        trainer.train(0, 1)
        with trainer.storage:
            trainer.settle()
        assert trainer.storage.history("positives/a").latest() == 3
        assert trainer.storage.history("b").latest() == 4


def test_a_batch_is_sent_ahead_while_another_is_computed():
    """As on a GPU: the next batch is requested of the loader before the last one is taken."""
    feed = Feed(batches(1.0, 2.0), None, torch.device("cpu"))
    feed.stage, feed.stream = (lambda inputs: ("staged", inputs)), None
    feed.send = lambda inputs: (feed.stage(inputs), None)
    feed.fetch_ahead()
    assert feed.ahead.batch[0] == "staged" and feed.ahead.files == ["0.jpg"]
    assert [feed.take().files, feed.take().files] == [["0.jpg"], ["1.jpg"]]
    feed.fetch_ahead()  # a loader that ends
    assert feed.ahead is None
    with pytest.raises(StopIteration):
        feed.take()


def test_what_was_sent_ahead_is_given_up_with_its_loader():
    trainer = make(batches(1.0))
    trainer.feed.ahead = Fed(batches(100.0)[0], None, ["old.jpg"], 0.0)
    trainer.reset_data_loader(lambda: batches(1.0))
    trainer.train(0, 1)
    assert trainer.model.weight.item() == pytest.approx(0.8)


def test_a_model_left_in_evaluation_mode_is_refused():
    trainer = make(batches(1.0))
    trainer.model.eval()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        trainer.train(0, 1)


def test_figures_of_a_step():
    model = Squares()
    groups = [{"kind": "bias", "params": [model.weight]}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9)
    trainer = StepTrainer(model, batches(1.0), optimizer)
    trainer.train(0, 1)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["lr/bias"] == 0.1 and latest["momentum"] == 0.9
    assert latest["data_time"] >= 0 and latest["loss_b"] == 0


def test_starting_a_loader_draws_nothing():
    class Drawing(list):
        def __iter__(self):
            torch.rand(1)
            return super().__iter__()

    trainer = make(Drawing(batches(1.0)))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with EventStorage():
        trainer.run_step()
    assert torch.equal(torch.rand(1), expected)
