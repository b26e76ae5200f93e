"""Start the router: `python -m serving.router --run-config router.yaml`."""

from __future__ import annotations

import argparse
import sys


def main() -> int:
    """Start the router; returns the exit code, 2 if its settings or files are wrong."""
    parser = argparse.ArgumentParser(prog="python -m serving.router", description="The A/B router.")
    parser.add_argument(
        "--run-config", required=True, metavar="FILE", help="settings, see serving/router/ops/settings.py"
    )
    arguments = parser.parse_args()

    from mtorl.log.dataset import SpecError
    from serving.decision_log import SpoolError
    from serving.ledger import LedgerInUse
    from serving.router.http.server import serve
    from serving.router.ops.settings import RouterSettings, SettingsError

    try:
        serve(RouterSettings.load(arguments.run_config))
    except (SettingsError, SpecError, SpoolError, LedgerInUse) as error:
        print(f"router: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
