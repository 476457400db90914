"""Products of the compiled engine against PyTorch, in every way that weights are held."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ltd.engine.compiled import number_types
from ltd.engine.compiled.arithmetic import kernel
from ltd.engine.compiled.number_types import LANES, WidenedPairs
from ltd.engine.compiled.products import (
    PANELS,
    PANELS_OF_WIDENED_PAIRS,
    as_inputs,
    make_product,
    paired,
    panels_of,
    product,
    round_pairs,
)
from ltd.engine.compiled.weights import in_float, in_half, in_pairs

HOLDINGS = {"float32": in_float, "half": in_half, "pairs": in_pairs}
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 19, 32, 33, 70)
MOST_ROWS = ROWS[-1]
widened_product = make_product(PANELS_OF_WIDENED_PAIRS, WidenedPairs)


@kernel(kept=False)
def whole(rows, weight, target):
    product(as_inputs(rows, weight), weight, weight.shape[1], 0, len(weight), target)


@kernel(kept=False)
def widened(rows, weight, target):
    widened_product(as_inputs(rows, weight), weight, weight.shape[1], 0, len(weight), target)


def numbers(*shape, seed=0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def multiply(compute, rows: Tensor, weight: np.ndarray, outputs: int) -> Tensor:
    target = np.full((len(rows), len(weight) * LANES), np.nan, np.float32)
    compute(rows.numpy(), weight, target)
    return torch.from_numpy(target[:, :outputs])


@pytest.mark.parametrize(
    "inputs", [1, 34, 35, 96]
)  # the last: whole blocks of tile registers, where there are any
@pytest.mark.parametrize("held", HOLDINGS)
def test_products_are_those_of_the_numbers_held(held, inputs):
    weight, rows = numbers(123, inputs), numbers(MOST_ROWS, inputs, seed=1)
    panels = panels_of(HOLDINGS[held](weight))
    kinds = {"float32": (weight, rows), "half": (weight.half(), rows)}
    held_weight, held_rows = kinds.get(held, (weight.bfloat16(), rows.bfloat16()))
    expected = held_rows.double() @ held_weight.double().T
    for count in ROWS:
        found = multiply(whole, rows[:count], panels, 123)
        torch.testing.assert_close(found.double(), expected[:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs", [70, 96])
@pytest.mark.parametrize("held", HOLDINGS)
def test_a_row_does_not_depend_on_its_neighbours(held, inputs):
    panels, rows = panels_of(HOLDINGS[held](numbers(500, inputs))), numbers(MOST_ROWS, inputs, seed=1)
    alone = torch.cat([multiply(whole, row[None], panels, 500) for row in rows])
    for count in ROWS:
        assert torch.equal(multiply(whole, rows[:count], panels, 500), alone[:count])


def test_processors_without_an_instruction_for_pairs_compute_the_same():
    """The sum of a pair's products is rounded twice, second product first, in either way; 71 inputs are no
    whole blocks, so tile registers take no part.
    """
    panels, rows = panels_of(in_pairs(numbers(123, 71))), numbers(MOST_ROWS, 71, seed=1)
    for count in ROWS:
        found = multiply(widened, rows[:count], panels, 123)
        assert torch.equal(found, multiply(whole, rows[:count], panels, 123))
    expected = torch.zeros(MOST_ROWS, 123)
    weight = numbers(123, 71).bfloat16().double()
    for first in range(0, 71, 2):
        for i in (first + 1, first):
            if i < 71:
                exact = rows[:, i, None].bfloat16().double() * weight[:, i]
                expected = (expected.double() + exact).float()
    assert torch.equal(found, expected)


def products_of_all_holdings() -> np.ndarray:
    """Of 71 inputs, which are no whole blocks of tile registers."""
    rows = numbers(MOST_ROWS, 71, seed=1)
    weights = [panels_of(hold(numbers(123, 71))) for hold in HOLDINGS.values()]
    return np.stack([multiply(whole, rows, weight, 123).numpy() for weight in weights])


@pytest.mark.skipif(LANES == 8, reason="needs a processor with registers of 512 bits")
def test_processors_with_shorter_registers_compute_the_same(tmp_path):
    file = tmp_path / "products.npy"
    script = "import numpy, sys, test_compiled_products as tests; numpy.save(sys.argv[1], "
    script += "tests.products_of_all_holdings()); assert tests.LANES == 8"
    shorter = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ""}
    environment = os.environ | shorter | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, file], env=environment, check=True)
    assert np.array_equal(np.load(file), products_of_all_holdings())


@pytest.mark.skipif(not number_types.has_tile_registers(), reason="needs AMX for bfloat16")
def test_tile_registers_add_up_block_by_block():
    """Of 16 pairs the first of all and the second of all, each with one rounding a product, then both."""
    panels, rows = panels_of(in_pairs(numbers(123, 96))), numbers(MOST_ROWS, 96, seed=1)
    weight, rounded = numbers(123, 96).bfloat16().double(), rows.bfloat16().double()
    expected = torch.zeros(MOST_ROWS, 123)
    for block in range(0, 96, 32):
        sums = torch.zeros(2, MOST_ROWS, 123)
        for i in range(block, block + 32):
            sums[i % 2] = (sums[i % 2].double() + rounded[:, i, None] * weight[:, i]).float()
        expected += sums[0] + sums[1]
    for count in ROWS:
        assert torch.equal(multiply(whole, rows[:count], panels, 123), expected[:count])


@pytest.mark.parametrize("answer", [0, -1])
def test_tile_registers_are_used_where_the_system_allows_it(answer, monkeypatch):
    asked = []
    library = SimpleNamespace(syscall=lambda *request: asked.append(request) or answer)
    monkeypatch.setattr(number_types, "_has", lambda feature: True)
    monkeypatch.setattr(number_types.ctypes, "CDLL", lambda name: library)
    assert number_types.has_tile_registers.__wrapped__() == (answer == 0)
    assert asked == [(158, 0x1023, 18)]


def test_rows_are_rounded_as_pytorch_rounds():
    """Ties go to even; large and small numbers, negative ones, infinity."""
    ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, -1.01171875])
    wide = numbers(996, seed=2) * 2.0 ** torch.randint(-120, 120, (996,))
    rows = torch.cat([ties, wide, torch.tensor([float("inf"), 0.0, -0.0])])[None]
    pairs = np.full((1, 502), 7, np.uint32)
    round_pairs(rows.numpy(), pairs)
    bits = rows.bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(pairs[:, :502], paired(bits))


@pytest.mark.parametrize("registers", PANELS)
def test_tiles_of_any_processor_give_the_same_sums(registers):
    """A machine uses one of them; none may depend on it."""
    tiled = make_product(PANELS[registers])

    @kernel(kept=False)
    def compute(rows, weight, target):
        tiled(rows, weight, weight.shape[1], 0, len(weight), target)

    panels, rows = panels_of(in_half(numbers(123, 34))), numbers(MOST_ROWS, 34, seed=1)
    for count in ROWS:
        found = multiply(compute, rows[:count], panels, 123)
        assert torch.equal(found, multiply(whole, rows[:count], panels, 123))
