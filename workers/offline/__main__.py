"""Start the offline model: `python -m chargehand.workers.offline --port 8090`."""

import argparse
import json
import logging
import signal
import sys
import threading
from pathlib import Path

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.accounting import MIN_PREFIX_TOKENS
from chargehand.workers.offline.faults import UnknownFault
from chargehand.workers.offline.imitation import IMITATIONS
from chargehand.workers.offline.server import OfflineServer


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit code."""
    parser = argparse.ArgumentParser(prog="chargehand.workers.offline", description=f"Answers by rules; {NOTICE}.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port; the first line of output names it")
    parser.add_argument("--allow-faults", action="store_true", help="tests: POST /_faults and GET /_calls work")
    parser.add_argument("--faults", default="", help="tests: JSON list of faults to begin with; needs --allow-faults")
    parser.add_argument("--ledger", type=Path, default=None, help="tests: append one JSON line for each call")
    parser.add_argument("--delay-seconds", type=float, default=0.0, help="tests: every call takes this long")
    parser.add_argument("--batch-seconds", type=float, default=0.0, help="every batch takes this long")
    parser.add_argument(
        "--min-prefix-tokens", type=int, default=MIN_PREFIX_TOKENS, help="shortest prefix that is cached"
    )
    parser.add_argument(
        "--imitate", choices=sorted(IMITATIONS), default="anthropic", help="tests: the quirks of another server"
    )
    options = parser.parse_args(arguments)
    if options.faults and not options.allow_faults:
        parser.error("--faults needs --allow-faults.")
    logging.basicConfig(level=logging.WARNING)
    try:
        server = OfflineServer(
            (options.host, options.port),
            allow_faults=options.allow_faults,
            ledger_path=options.ledger,
            min_prefix_tokens=options.min_prefix_tokens,
            delay_seconds=options.delay_seconds,
            batch_seconds=options.batch_seconds,
            imitation=IMITATIONS[options.imitate],
        )
    except OSError as error:
        sys.stderr.write(f"Cannot listen on {options.host}:{options.port} ({error.strerror}); choose another --port.\n")
        return 1
    if options.faults:
        try:
            server.faults.replace(json.loads(options.faults))
        except (ValueError, UnknownFault) as error:
            parser.error(f"--faults: {error}")

    def stop(*_: object) -> None:
        # `shutdown` waits for the loop that runs in this very thread.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(f"{server.base_url}\n")
    sys.stdout.flush()
    with server:
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
