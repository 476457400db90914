"""How much tensor memory is alive while torch works, backward passes included."""

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of every storage made within the context while it is alive; `peak` is their largest
    sum.
    """

    def __init__(self):
        super().__init__()
        self.peak, self.alive = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = {self._address(tensor) for tensor in given}
        result = function(*args, **(kwargs or {}))
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and self._address(tensor) not in before:
                storage = tensor.untyped_storage()
                self.alive[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))
        return result

    @staticmethod
    def _address(tensor):
        return tensor.untyped_storage()._cdata
