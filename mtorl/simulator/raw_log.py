"""Writes the simulator's log as a raw file, so that the ingestion of a real log can be tried."""

import gzip
from pathlib import Path

from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.simulator.simulator import Simulator, SimulatorConfig

SUFFIXES = (".csv", ".csv.gz", ".parquet")


def write_raw_log(path: Path, config: SimulatorConfig) -> int:
    """Write a log of the built-in data set "simulator" in the format of the suffix; return the number of touchpoints.

    The same settings give identical bytes. InputError: the suffix is not in `SUFFIXES`.
    """
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: expected a name that ends with {', '.join(SUFFIXES)}")
    log = Simulator(config).log()
    with replacing(path) as unfinished:
        if path.name.endswith(".parquet"):
            log.to_parquet(unfinished, index=False)
        elif path.name.endswith(".gz"):
            # Without the file name and time that gzip would write into its header, so that the bytes are reproducible.
            with unfinished.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                log.to_csv(packed, index=False)
        else:
            log.to_csv(unfinished, index=False)
    return len(log)
