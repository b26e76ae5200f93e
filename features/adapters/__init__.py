"""From a file's own columns to those of the touchpoint log: one module per file layout.

To add one: write a class like those here (`base.Adapter`), add it to `ADAPTERS`, and name it in the data set's YAML.
"""

from __future__ import annotations

from collections.abc import Mapping

from features.adapters.base import Adapter
from features.adapters.criteo import CriteoAttribution
from features.adapters.kuairand import KuaiRand
from features.adapters.samples import CriteoSequence, KuaiRandSequence
from features.adapters.touchpoints import Touchpoints
from mtorl.dataset import DatasetSpec, SpecError

ADAPTERS: Mapping[str, Adapter] = {
    "touchpoints": Touchpoints(),
    "simulator": Touchpoints(),
    "criteo-attribution": CriteoAttribution(),
    "criteo-sequence": CriteoSequence(),
    "kuairand": KuaiRand(),
    "kuairand-sequence": KuaiRandSequence(),
}


def adapter_of(spec: DatasetSpec) -> Adapter:
    """The adapter that a data set names.

    Raises:
        SpecError: there is none of that name, or a column is listed as context that its files can't give as such.
    """
    if spec.adapter not in ADAPTERS:
        raise SpecError(f"adapter: {spec.adapter!r} is not one of {', '.join(ADAPTERS)}")
    adapter = ADAPTERS[spec.adapter]
    for kind, columns in (("context", spec.context), ("static", spec.static)):
        for column in columns:
            if column.name in adapter.never_context:
                why = adapter.never_context[column.name]
                raise SpecError(f"{kind}: column {column.name!r} is {why}; list it under outcomes, or leave it out")
    return adapter
