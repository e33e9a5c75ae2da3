"""Tokenised tables on disk, each in a sealed folder, mapped into memory when it is found again."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_posttrain.data.report import DataReport
from lit_posttrain.data.sealed import DamagedCache, SealedFolders, cache_folder, opened, require
from lit_posttrain.data.token_table import TokenTable, joined_digest

log = logging.getLogger(__name__)

VERSION = 1
KINDS = {"ids": "<i4", "mask": "|b1", "starts": "<i8", "counts": ""}
OPTIONAL = {"scale": "<f4", "values": "<f4"}
COUNTS = {False: "<i8", True: "<f8"}  # by whether there are scales


@dataclass(frozen=True)
class TokenCache(SealedFolders):
    """Where tokenised tables are kept; a table is named by a fingerprint of everything that it was made from."""

    @classmethod
    def of(cls, folder: str | None) -> "TokenCache":
        """The one at `folder`, or the one in the user's cache folder."""
        return cls(cache_folder(folder, "tokens"))

    def find(self, fingerprint: str) -> tuple[TokenTable, DataReport] | None:
        """The table of a fingerprint, checked and mapped; None where there is none, or a damaged one."""
        place = self.folder / fingerprint
        if not place.is_dir():
            return None
        try:
            return _read(place, fingerprint)
        except (DamagedCache, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the cached tokens in %s cannot be used and are made anew: %s", place, error)
            return None

    def publish(self, draft: Path, fingerprint: str, report: DataReport) -> None:
        """Makes a written draft the table of a fingerprint, in place of any other."""
        self.put(
            draft, fingerprint, {"version": VERSION, "fingerprint": fingerprint, "report": asdict(report)}
        )


def _read(place: Path, fingerprint: str) -> tuple[TokenTable, DataReport]:
    content = opened(place)
    require(content["version"] == VERSION, f"it is of version {content['version']}, not {VERSION}")
    require(content["fingerprint"] == fingerprint, "it was made from something else")
    files = content["files"]
    require(set(KINDS) <= set(files) <= {*KINDS, *OPTIONAL}, f"it holds {sorted(files)}")
    return _mapped(place, files), DataReport(**content["report"])


def _mapped(place: Path, files: Mapping[str, Mapping[str, Any]]) -> TokenTable:
    kinds = KINDS | OPTIONAL | {"counts": COUNTS["scale" in files]}
    arrays = {name: np.memmap(place / f"{name}.bin", dtype=kinds[name], mode="r") for name in files}
    starts = np.array(arrays["starts"])
    tokens, rows = len(arrays["ids"]), len(starts) - 1
    per_token = {len(arrays[name]) for name in ("mask", *OPTIONAL) if name in files}
    whole = per_token == {tokens} and len(arrays["counts"]) == rows and starts[-1] == tokens
    require(bool(whole and starts[0] == 0 and (np.diff(starts) > 0).all()), "its parts do not fit together")
    order = ("ids", "mask", "starts", *(name for name in OPTIONAL if name in files))
    return TokenTable(
        arrays["ids"],
        arrays["mask"],
        starts,
        np.array(arrays["counts"]),
        arrays.get("scale"),
        joined_digest([files[name]["digest"] for name in order]),
        arrays.get("values"),
    )
