"""The training loop: hooks around steps."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable

from .events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Something that happens at fixed places of the training; `trainer` is set on registration."""

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, or when the training ends with an error."""

    def before_step(self) -> None:
        """Before each iteration."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this hook."""
        return {}


class TrainerBase:
    """Iterations with hooks."""

    def __init__(self):
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # no cycle that keeps both in memory
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        logger.info("Training iterations %d to %d", start_iter, max_iter - 1)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.call_hooks("before_train")
                while self.iter < max_iter:
                    self.storage.iter = self.iter
                    self.call_hooks("before_step")
                    self.run_step()
                    self.call_hooks("after_step")
                    self.iter += 1
            except Exception:
                logger.exception("The training stops at iteration %d", self.iter)
                raise
            finally:
                self.storage.iter = self.iter
                self.call_hooks("after_train")

    def call_hooks(self, method: str) -> None:
        for hook in self._hooks:
            getattr(hook, method)()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict:
        state: dict = {"iteration": self.iter}
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            kept = hook.state_dict()
            if kept:
                hooks.setdefault(type(hook).__qualname__, kept)  # the first of a class
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state: dict) -> None:
        self.iter = state["iteration"]
        for name, kept in state.get("hooks", {}).items():
            owners = [hook for hook in self._hooks if type(hook).__qualname__ == name]
            if owners:
                owners[0].load_state_dict(kept)
            else:
                logger.warning("No hook %r is registered: its state is ignored", name)
