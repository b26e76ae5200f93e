"""Start the router: `python -m serving.router --run-config router.yaml`."""

import argparse
import logging
import sys


def main() -> int:
    """Run the router. Returns exit code 2 if its settings or files are not valid, and 1 after an internal error.

    If work is left at shutdown because a database or disk hangs, the process exits with code 4 (`http/server.py`).
    """
    parser = argparse.ArgumentParser(prog="python -m serving.router", description="The A/B router.")
    parser.add_argument("--run-config", metavar="FILE", required=True, help="docs/schemas/router-settings.json")
    arguments = parser.parse_args()

    from mtorl.log.dataset import SpecError
    from serving.decision_log import SpoolError
    from serving.kserve_sdk import CannotListen, quiet
    from serving.ledger.contract import LedgerInUse
    from serving.router.ops.settings import RouterSettings, SettingsError

    quiet()
    log = logging.getLogger("serving.router")
    try:
        from serving.router.http.server import serve  # imported inside `try`, so that an ImportError is logged as well

        serve(RouterSettings.load(arguments.run_config))
    except (SettingsError, SpecError, SpoolError, LedgerInUse, CannotListen) as error:
        log.critical("router: %s", error)
        return 2
    except Exception:
        log.critical("the router failed", exc_info=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
