import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from restain.randomness import derive_seed, generator

KEYS = st.lists(st.one_of(st.integers(0, 10**6), st.text(max_size=8)), max_size=4)


@given(st.integers(0, 2**31), KEYS)
def test_a_seed_fits_in_63_bits_and_depends_on_nothing_else(seed: int, keys: list[int | str]) -> None:
    assert 0 <= derive_seed(seed, *keys) < 2**63
    assert derive_seed(seed, *keys) == derive_seed(seed, *keys)


@given(st.integers(0, 100), KEYS, st.integers(0, 100), KEYS)
def test_different_purposes_get_different_seeds(
    seed: int, keys: list[int | str], other: int, others: list[int | str]
) -> None:
    if (seed, *keys) != (other, *others):
        assert derive_seed(seed, *keys) != derive_seed(other, *others)


def test_keys_do_not_run_together() -> None:
    purposes = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), (1, 23), (12, 3), ("1", 23), (1, "23"), ("1, 23",)]
    assert len({derive_seed(0, *keys) for keys in purposes}) == len(purposes)


def test_seeds_stay_what_they_were_when_the_first_runs_were_published() -> None:
    assert derive_seed(0) == 6197007067532723406
    assert derive_seed(7, "augment", 3, 11) == 100256594114914350


def test_another_process_draws_the_same_numbers() -> None:
    line = "import torch; from restain.randomness import *; print(torch.rand(3, generator=generator(5, 'x')).tolist())"
    printed = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(torch.rand(3, generator=generator(5, "x")).tolist())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    torch.rand(3, generator=generator(0, "x"))
    assert torch.equal(torch.random.get_rng_state(), before)
