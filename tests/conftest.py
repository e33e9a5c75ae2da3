"""Options and marks that all tests share."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--realdata", type=Path, metavar="DIR", help="run the tests on real data; DIR holds it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow; give --run-slow"))
        if "realdata" in item.keywords and config.getoption("--realdata") is None:
            item.add_marker(pytest.mark.skip(reason="needs real data; give --realdata DIR"))
        if "gpu" in item.keywords and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def realdata(request: pytest.FixtureRequest) -> Path:
    """The folder given by --realdata."""
    return request.config.getoption("--realdata")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached or put aside for the user goes into a folder of the test session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
