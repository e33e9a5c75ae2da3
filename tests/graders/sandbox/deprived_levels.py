"""Run by path in a fresh process: takes away what its arguments name, then says which level is proven for whom."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import deprivation  # noqa: E402

from lit_posttrain.errors import InputError  # noqa: E402
from lit_posttrain.graders.sandbox.interface import Limits  # noqa: E402
from lit_posttrain.graders.sandbox.local import LocalSandbox  # noqa: E402

lowest, *taken = sys.argv[1:]
if "root" in taken:
    deprivation.ordinary_user(str(HERE.parents[2]))
for name in taken:
    if name != "root":
        deprivation.DEPRIVATIONS[name]()
sandbox = LocalSandbox(min_level=int(lowest), servers=1, i_accept_unconfined_code=True)
try:
    print(sandbox.facts()["sandbox.level"])
    print(sandbox.script("print(6 * 7)", b"", Limits()).printed.decode().strip())
except InputError as error:
    print("refused", error)
finally:
    sandbox.close()
