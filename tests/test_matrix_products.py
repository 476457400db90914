"""The share of matrix products in a step: which kernels of a GPU count, and a profiler that loses some."""

import re
from pathlib import Path

import pytest

from ltd.measurement import matrix_products
from ltd.measurement.matrix_products import STEPS, is_product_kernel, per_step


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("nvjet_tst_64x8_64x16_4x1_v_bz_TNT", True),
        ("void gemv2T_kernel_val<int, int, __nv_bfloat16>", True),
        ("void cublasLt::splitKreduce_kernel<32, 16>", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", True),
        ("void at::native::vectorized_elementwise_kernel<4>", False),
        ("fmha_cutlassF_bf16_aligned", False),
    ],
)
def test_kernels_of_products_are_told_by_their_names(name, counts):
    assert is_product_kernel(name) == counts


@pytest.mark.parametrize(
    ("module", "counts"), [("products", True), ("attention", False), ("drafting", False)]
)
def test_kernels_of_our_own_are_told_by_theirs(module, counts):
    source = (Path(matrix_products.__file__).parents[1] / f"engine/gpu/{module}.py").read_text()
    kernels = re.findall(r"def (\w+_kernel)\(", source)
    assert kernels
    assert [is_product_kernel(name) for name in kernels] == [counts] * len(kernels)


def test_time_of_a_step_is_the_sum_of_medians_or_where_events_are_missing_the_mean():
    assert per_step([1.0, 2.0] * (STEPS - 1) + [100.0, 2.0]) == pytest.approx(3)
    assert per_step([1.0] * (STEPS + 1)) == pytest.approx(1 + 1 / STEPS)
    assert per_step([]) == 0
