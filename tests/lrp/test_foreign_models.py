"""The networks of docs/foreign-models.md: everything its table promises, row by row."""

import pytest
from foreign_models import judged, measure
from foreign_networks import NETWORKS

pytestmark = pytest.mark.usefixtures("x64")

# One of each library and kind that compiles in a few seconds.
QUICK = (
    "Squeeze-and-excitation CNN",
    "Graph convolution by gather and segment_sum",
    "WeightNorm CNN (Linen)",
)


def check(name):
    row = measure(NETWORKS[name])
    if "missing" in row:
        pytest.skip(f"{row['missing']} is not installed")
    failed = {column: rules for column, rules in judged(NETWORKS[name], row).items() if rules}
    assert not failed, (failed, row)


@pytest.mark.parametrize("name", QUICK)
def test_a_few_networks(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in QUICK])
def test_every_network(name):
    check(name)


def test_there_are_many_and_of_many_libraries():
    assert len(NETWORKS) >= 25
    assert len({network.library for network in NETWORKS.values()}) >= 5
