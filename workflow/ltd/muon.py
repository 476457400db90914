"""Muon: momentum whose update matrix is replaced by the nearest orthogonal one.

For small transformers it needs clearly fewer tokens than AdamW, which is what counts on two CPU cores. It
suits weight matrices between hidden vectors only; embeddings, output heads and norms belong to AdamW.
Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of the odd quintic a*x + b*x^3 + c*x^5: steep at 0, it settles in about 0.7 to 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 3) -> Tensor:
    """Push all singular values of each matrix towards 1 by Newton-Schulz iteration.

    `matrices` is [count, rows, columns]; for the singular value decomposition U S V^T of each the result is
    about U V^T (singular values of 0.7 to 1.2), without computing the decomposition. The iteration starts
    from the matrix over (sum s^4)^(1/4), the root of the norm of its Gram matrix: a closer bound of the
    largest singular value than the usual (sum s^2)^(1/2), which saves iterations.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(1, 2)
    device = matrices.device.type
    exact = not torch.is_autocast_enabled(device)
    if not exact:
        wide = wide.to(torch.get_autocast_dtype(device))  # once, instead of before every product
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # The factor grows out of differences that products in 16 bits round away.
    by_factor = exact and x.shape[1] < x.shape[2]
    multiply, iterate = (_symmetric_product, _iterate_factor) if by_factor else (torch.bmm, _iterate_matrix)
    gram = multiply(x, x.transpose(1, 2))
    bound = gram.norm(dim=(1, 2), keepdim=True) + 1e-14
    x = iterate(x / bound.sqrt(), gram / bound, steps)
    return x if x.shape == matrices.shape else x.transpose(1, 2)


def _iterate_matrix(x: Tensor, gram: Tensor, steps: int) -> Tensor:
    """Iterate on the matrices themselves, `gram` being x x^T."""
    a, b, c = QUINTIC
    for step in range(steps):
        gram = x @ x.transpose(1, 2) if step else gram
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_factor(x: Tensor, gram: Tensor, steps: int) -> Tensor:
    """The same on what the iterations multiply `x` with from the left, a polynomial of its Gram matrix.

    All products but the last are then of the shorter side's size; symmetric ones, because polynomials of one
    symmetric matrix commute.
    """
    a, b, c = QUINTIC
    factor = None
    for step in range(steps):
        polynomial = _symmetric_product(gram, gram).mul_(c).add_(gram, alpha=b)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        factor = polynomial if factor is None else _symmetric_product(polynomial, factor)
        if step < steps - 1:
            gram = _symmetric_product(polynomial, _symmetric_product(gram, polynomial))
    return factor @ x


def _symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` where that is symmetric: a quarter of it is copied, not computed."""
    half = left.shape[1] // 2
    product = left.new_empty(len(left), left.shape[1], left.shape[1])
    torch.bmm(left[:, :half], right, out=product[:, :half])
    product[:, half:, :half] = product[:, :half, half:].transpose(1, 2)
    torch.bmm(left[:, half:], right[:, :, half:], out=product[:, half:, half:])
    return product


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for parameters of two dimensions.

    Matrices of one shape, up to transposition, are orthogonalised in one batched product. The step of a
    matrix with more rows than columns is scaled by sqrt(rows / columns): all change their outputs alike.
    Raises ValueError for a parameter that is not a matrix.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            if any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon: only matrices; give embeddings, norms and biases to AdamW")

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._momentum(parameter, group["momentum"])
                    shapes[tuple(sorted(parameter.shape))].append((parameter, update))
            for pairs in shapes.values():
                self._apply(pairs, group["lr"])

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Add the gradient to the running average and return it looked at one step ahead."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)

    @staticmethod
    def _apply(pairs: list[tuple[Tensor, Tensor]], lr: float) -> None:
        wide = torch.stack([u if u.shape[0] <= u.shape[1] else u.T for _, u in pairs])
        for (parameter, _), update in zip(pairs, orthogonalise(wide), strict=True):
            rows, columns = parameter.shape
            update = update if rows <= columns else update.T
            parameter.add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)
