"""Tables of accuracies on held-out pairs, with paired differences to the baselines."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from lit_posttrain.data.sources import Table
from preferences.figures import difference, hits, mean_of
from preferences.real_data import first_question, pairs

BASELINES = ("longer reply", "bag of words")


def show(title: str, margins: Mapping[str, Tensor], table: Table) -> None:
    """Prints the accuracies of all that scored the test split, ties half."""
    groups = [first_question(row) for row in pairs(table, "test")]
    print(f"\n## {title}: {len(groups)} held-out pairs of {len(set(groups))} first questions\n")
    print("| | accuracy | ties |", *(f"less {name} |" for name in BASELINES))
    print("|---|---|---|" + "---|" * len(BASELINES))
    for name, found in margins.items():
        cells = [f"{mean_of(hits(found), groups)}", str(int((found == 0).sum()))]
        for other in BASELINES:
            cells.append("" if name == other else f"{difference(found, margins[other], groups):+}")
        print("|", name, *(f"| {cell}" for cell in cells), "|", flush=True)


def pair_loss(margins: Tensor, scale: float) -> float:
    """Mean of -log sigmoid(scale * margin) over the pairs, in nats; ln 2 for one that knows nothing."""
    return float(functional.softplus(-scale * margins).mean())
