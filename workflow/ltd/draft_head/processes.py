"""Data-parallel training: several processes, each with its own GPUs and its share of every batch.

Started by `torchrun` or `accelerate launch`, which say through the environment who is who; without them there
is one process and nothing here does anything. Every process has the whole head on the first of its GPUs, and
the whole target there or, where it is larger, spread over all of its GPUs. The sum over processes is that of
one process with the whole batch: gradients are weighed by the rows that they come from.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ltd.devices import resolve_device
from ltd.errors import InputError

# One process may compute the target's features while the others wait.
PATIENCE = timedelta(hours=12)
# What a launcher tells every process beside their number.
LAUNCHERS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

Item = TypeVar("Item")
Result = TypeVar("Result")


def gpus_of(rank: int, processes: int, gpus: int) -> range:
    """GPUs of one of the processes of a machine: neighbours, as many for each; 4 for 2 are 0 1 and 2 3.

    Raises InputError when they cannot be shared evenly.
    """
    each, left = divmod(gpus, processes)
    if not each or left:
        raise InputError(
            f"draft.processes: {processes} processes cannot share {gpus} GPUs evenly; use a number of "
            "processes that divides them, or hide some with CUDA_VISIBLE_DEVICES"
        )
    return range(rank * each, (rank + 1) * each)


class Processes:
    """The processes of one training: `count` of them, this one number `rank`, with these `gpus` of its
    machine (none: all of them, or a CPU).
    """

    def __init__(self, rank: int = 0, count: int = 1, gpus: Sequence[int] = ()) -> None:
        self.rank, self.count, self.gpus = rank, count, gpus

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Meet the others, where the environment says that there are any; the first of this process's GPUs
        becomes the current one. Raises InputError (see `gpus_of`), also where a launcher is missing.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        missing = [name for name in LAUNCHERS if name not in os.environ]
        if missing:
            raise InputError(
                f"WORLD_SIZE: {count} processes, but {', '.join(missing)} not set; start them with torchrun, "
                "or unset WORLD_SIZE for one"
            )
        backend, first, gpus = "gloo", None, range(0)
        if resolve_device(device).type == "cuda":
            here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
            gpus = gpus_of(int(os.environ["LOCAL_RANK"]), here, torch.cuda.device_count())
            backend, first = "nccl", torch.device("cuda", gpus[0])
            torch.cuda.set_device(first)
        if not dist.is_initialized():
            # Without the device NCCL would take the GPU with the process's number for its first barrier.
            dist.init_process_group(backend, timeout=PATIENCE, device_id=first)
        return cls(dist.get_rank(), count, gpus)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of a batch; neighbours, alike in length, go to different processes."""
        return items[self.rank :: self.count]

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor | None, rows: int) -> float:
        """Replace gradients of a mean over this process's `rows` by those over everybody's; return that loss.

        A process whose share is empty comes with no loss and no rows.
        """
        if self.count == 1:
            return loss.item()
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        mean = torch.zeros((), device=trained[0].device) if loss is None else loss.detach().float()
        sums = torch.stack([mean * rows, torch.full_like(mean, rows)])
        dist.all_reduce(sums)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.mul_(rows / sums[1].clamp(min=1))
            dist.all_reduce(parameter.grad)
        return (sums[0] / sums[1].clamp(min=1)).item()

    def main_first(self, work: Callable[[], Result]) -> Result:
        """Do `work` in the main process, then in the others, which find its files."""
        if self.main:
            result = work()
        self.wait()
        return result if self.main else work()

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()

    def part(self) -> None:
        """Wait once more, then leave the group."""
        if self.count > 1:
            self.wait()
            dist.destroy_process_group()
