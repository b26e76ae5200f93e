"""Start the router: `python -m serving.router --run-config router.yaml`."""

import argparse
import logging
import sys


def main() -> int:
    """Run the router; returns exit code 2 for invalid settings, and 1 for an internal error."""
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
        from serving.router.http.server import serve  # inside `try`, so that an ImportError is logged

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
