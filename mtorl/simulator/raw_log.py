"""Writes the simulator's log as a raw file, to try the ingestion of a real log."""

import gzip
from pathlib import Path

from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.simulator.simulator import Simulator, SimulatorConfig

SUFFIXES = (".csv", ".csv.gz", ".parquet")


def write_raw_log(path: Path, config: SimulatorConfig) -> int:
    """Write a log of the built-in data set "simulator" to a file, and return its number of touchpoints.

    The suffix of the file name selects the format. The same settings always give the same bytes.

    Raises:
        InputError: the suffix is not in `SUFFIXES`.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends with {', '.join(SUFFIXES)}")
    log = Simulator(config).log()
    with replacing(path) as unfinished:
        if path.name.endswith(".parquet"):
            log.to_parquet(unfinished, index=False)
        elif path.name.endswith(".gz"):
            # By default, gzip writes the file name and the time into its header. Leave them out, so that the bytes are
            # reproducible.
            with unfinished.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                log.to_csv(packed, index=False)
        else:
            log.to_csv(unfinished, index=False)
    return len(log)
