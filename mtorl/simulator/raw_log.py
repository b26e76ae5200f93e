"""Writes the simulator's log as a raw file, to try the ingestion of a real log."""

import gzip
from pathlib import Path

from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.simulator.simulator import Simulator, SimulatorConfig

SUFFIXES = (".csv", ".csv.gz", ".parquet")


def write_raw_log(path: Path, config: SimulatorConfig) -> int:
    """Write the simulator's log in the format of the file's suffix, and return the number of touchpoints.

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
            # Omit the file name and the time from the gzip header, so that the bytes are reproducible.
            with unfinished.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                log.to_csv(packed, index=False)
        else:
            log.to_csv(unfinished, index=False)
    return len(log)
