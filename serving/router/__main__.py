"""Start the router: `python -m serving.router --run-config router.yaml`."""

from __future__ import annotations

import argparse
import logging
import sys

_WORKERS = """\
How many processes decide; by default one. Several listen on one port, for a machine with several cores: each decides on
about one core, and holds some 300 MB. They need a ledger that they can share, on Redis: `mtorl ledger move`. Worker 0
logs decisions in the folder `spool`, worker 1 in spool/worker-1, and so on; whoever reads `spool` reads all. A start
with fewer loses nothing: worker 0 settles and ships what the others have left. Limits hold for each
(max_in_flight, spool_max_bytes). On Kubernetes, take replicas instead.
"""


def main() -> int:
    """Start the router.

    Returns:
        The exit code: 2 if its settings or files are wrong, 1 after a fault of its own. The process ends with 4 if a
        store hangs at the end, and something is left undone.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.router", description="The A/B router.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run-config", metavar="FILE", help="settings, see serving/router/ops/settings.py")
    what.add_argument("--worker", help=argparse.SUPPRESS)  # one of several, whose settings come on standard input
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help=_WORKERS)
    arguments = parser.parse_args()

    from mtorl.log.dataset import SpecError
    from serving import logs
    from serving.decision_log import SpoolError
    from serving.ledger import LedgerInUse
    from serving.router.ops.settings import RouterSettings, SettingsError
    from serving.shared_port import CannotListen

    logs.set_up()
    log = logging.getLogger("serving.router")
    try:
        if arguments.workers > 1 and arguments.run_config:
            from serving.router.http.workers import supervise  # without KServe, whose imports take memory

            return supervise(RouterSettings.load(arguments.run_config), arguments.workers)
        from serving.kserve_sdk import quiet
        from serving.router.http.server import serve
        from serving.router.ops.worker import Worker

        quiet()
        if arguments.worker:
            worker = Worker.parse(arguments.worker)
            logs.name_worker(worker.number)
            serve(RouterSettings.of_text(sys.stdin.read()), worker=worker)
        else:
            serve(RouterSettings.load(arguments.run_config))
    except (SettingsError, SpecError, SpoolError, LedgerInUse, CannotListen) as error:
        log.critical("router: %s", error)
        return 2
    except Exception:
        log.critical("the router ended", exc_info=True)
        return 1
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
