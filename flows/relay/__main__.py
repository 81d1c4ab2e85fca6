"""``python -m flows.relay``: the relay as a process; loopback unless told otherwise."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from composition.errors import UserError
from flows.environment import make_home

PORT = 4290


def main() -> None:
    """Serves the relay until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m flows.relay", description=__doc__)
    host = os.environ.get("DETCOMPOSE_RELAY_HOST", "127.0.0.1")
    port = os.environ.get("DETCOMPOSE_RELAY_PORT", str(PORT))
    parser.add_argument("--host", default=host, help="address to listen on")
    parser.add_argument("--port", type=int, default=port, help="port to listen on")
    options = parser.parse_args()
    make_home()
    import uvicorn

    from flows.relay.app import make_app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # requests of ours to the servers are no news
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app = make_app()
    except UserError as error:
        sys.exit(f"error: {error}")
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
