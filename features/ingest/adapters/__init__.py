"""Adapters: from a file's own columns to those of the touchpoint log, one module for each file layout.

Read `base.py` (what an adapter is) and `files.py` (reading CSV and Parquet) first, then `samples.py`, `criteo.py` or
`kuairand.py`. To add a layout, write a class like theirs, add it to `ADAPTERS`, and name it in the YAML of a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ibis

from features.engine import Engine, parquet_files
from features.ingest.adapters.base import Adapter
from features.ingest.adapters.criteo import CriteoAttribution
from features.ingest.adapters.files import MissingColumns, columns
from features.ingest.adapters.kuairand import KuaiRand
from features.ingest.adapters.renamed import RenamedLog
from features.ingest.adapters.samples import CriteoSequence, KuaiRandSequence
from mtorl.log.dataset import DatasetSpec, SpecError, built_in
from mtorl.log.touchpoints import LogError

CANONICAL = Adapter()
ADAPTERS: Mapping[str, Adapter] = {
    "touchpoints": RenamedLog(),
    "simulator": Adapter(),
    "criteo-attribution": CriteoAttribution(),
    "criteo-sequence": CriteoSequence(),
    "kuairand": KuaiRand(),
    "kuairand-sequence": KuaiRandSequence(),
}


def read(engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> tuple[Adapter, ibis.Table]:
    """Read a file with the adapter of its data set; an error names the data set that another layout looks like.

    A Parquet file of the canonical layout is read as such: `mtorl bootstrap` leaves a public log so on the volume, and
    it is read again with the description of the raw one.
    """
    adapter = adapter_of(spec)
    try:
        if _is_canonical(path, spec):
            adapter = CANONICAL
        return adapter, adapter.read(engine, path, spec, scratch)
    except MissingColumns as error:
        if known := looks_like(error.names):
            raise LogError(f"{error}\nthe file looks like data set {known!r}") from None
        raise


def looks_like(names: Sequence[str]) -> str:
    """The built-in data set whose files have columns of these names; empty if there is none."""
    for spec in map(DatasetSpec.load, built_in()):
        if set(adapter_of(spec).required(spec)) <= set(names):
            return spec.name
    return ""


def _is_canonical(path: Path, spec: DatasetSpec) -> bool:
    try:
        file = parquet_files(path)[0]
    except FileNotFoundError:
        return False
    if not (file.name.endswith(".parquet") and file.is_file()):
        return False
    there = set(columns(file))
    # Of a file that has the description's own names as well, the description is believed.
    raw = bool(spec.columns or spec.conversions) and set(adapter_of(spec).required(spec)) <= there
    return not raw and set(CANONICAL.required(spec)) <= there


def adapter_of(spec: DatasetSpec) -> Adapter:
    """The adapter that a data set names, if the description fits it."""
    if spec.adapter not in ADAPTERS:
        raise SpecError(f"adapter: {spec.adapter!r} is not one of {', '.join(ADAPTERS)}")
    adapter = ADAPTERS[spec.adapter]
    for field in ("columns", "conversions"):
        if getattr(spec, field) and not isinstance(adapter, RenamedLog):
            raise SpecError(f"{field}: adapter {spec.adapter!r} knows its files; leave one of the two out")
    for kind, listed in (("context", spec.context), ("static", spec.static)):
        for column in listed:
            if column.name in adapter.never_context:
                why = adapter.never_context[column.name]
                raise SpecError(f"{kind}: column {column.name!r} is {why}; list it under outcomes, or leave it out")
    return adapter
