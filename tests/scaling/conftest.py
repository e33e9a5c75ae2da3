import numpy as np
import pytest

from lit_posttrain.scaling.points import Points
from lit_posttrain.scaling.simulate import Truth, simulated_run

TRUTH = Truth(r_0=0.2, a=0.7, c_mid=10.0, b=1.6, problems=300, samples=4)


@pytest.fixture(scope="session")
def truth() -> Truth:
    return TRUTH


@pytest.fixture(scope="session")
def run() -> Points:
    """A run to 4 C_mid with 20 probes."""
    return simulated_run(TRUTH, np.linspace(0, 40, 20), seed=7)
