"""The batch of each step, a function of the seed and the step only, so that a run resumes exactly."""

import functools
import os
from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from restain.data.pairs import Pair, PairedTiles, collate, epoch_order
from restain.errors import ConfigError, RestainError
from restain.randomness import generator
from restain.training.config import DataConfig
from restain.training.ranks import Ranks
from restain.workers.interrupts import leave_stopping_to_parent


class Batches(Dataset[Pair | RestainError]):
    """The batch of every step.

    Each epoch is a permutation of the pairs, drawn from (seed, epoch) and split into batches, with each pair at most
    once. An incomplete last batch is dropped. Each of several processes takes its share of every batch, so that
    together they see what one process would. If they cannot share it evenly, each takes the whole batch, which gives
    the same gradients without speed-up.

    Raises:
        ConfigError: there are fewer pairs than in a batch.
    """

    def __init__(self, pairs: PairedTiles, config: DataConfig, seed: int, ranks: Ranks) -> None:
        if len(pairs) < config.batch_size:
            raise ConfigError(
                f"batch_size in [data] is {config.batch_size}, but there are only {len(pairs)} pairs; "
                f"use at most {len(pairs)}, as in data.batch_size={len(pairs)}"
            )
        self.pairs, self.config, self.seed, self.ranks = pairs, config, seed, ranks
        self.per_epoch = len(pairs) // config.batch_size

    def indices(self, step: int) -> tuple[int, list[int]]:
        """The epoch of a step, and the indices of the pairs that this process sees in it."""
        epoch, batch = divmod(step, self.per_epoch)
        order = epoch_order(len(self.pairs), self.seed, epoch)
        size, count = self.config.batch_size, self.ranks.count
        whole = order[batch * size : (batch + 1) * size]
        share = size // count
        return epoch, whole if size % count else whole[self.ranks.rank * share : (self.ranks.rank + 1) * share]

    def __getitem__(self, step: int) -> Pair | RestainError:
        """The batch or its error, returned because a loader would add a traceback to a raised one."""
        epoch, indices = self.indices(step)
        try:
            return collate([self.pairs.item(index, epoch) for index in indices])
        except RestainError as error:
            return error

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Pair]]:
        """Steps from `start` to before `stop`, each with its batch, read ahead by `loaders` processes.

        Raises:
            InputError: a file is damaged.
            ShapeError: the pairs of a batch differ in size.
        """
        steps = range(start, stop)
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=steps,
            num_workers=self.config.loaders,
            worker_init_fn=functools.partial(_begin_loading, os.getpid()),
            pin_memory=self.ranks.device.type == "cuda",
            generator=generator(self.seed, "loaders"),  # otherwise the loader draws from the global generator
        )
        for step, batch in zip(steps, loader, strict=True):
            if isinstance(batch, RestainError):
                raise batch
            yield step, batch


def _begin_loading(parent: int, number: int) -> None:  # noqa: ARG001  # the loader's number, which nothing depends on
    leave_stopping_to_parent(parent)
