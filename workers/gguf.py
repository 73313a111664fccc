"""A language model of your own from one GGUF file, served in the Messages format by a process of its own; opt-in.

`python -m chargehand.workers.gguf MODEL.gguf --sha256 HEX`: the file is read whole and compared with the hash before
anything of it is loaded. What answers is llama.cpp, from the package `xllamacpp` (`pip install 'chargehand[gguf]'`); it
listens on loopback. The hash says that the file is the one you meant; it does not say that the model is any good.
"""

import argparse
import hashlib
import importlib
import signal
import sys
import threading
from pathlib import Path
from typing import Any

# An extra: who does not want it has no 100 MB of it.
xllamacpp: Any
try:
    xllamacpp = importlib.import_module("xllamacpp")
except ImportError:
    xllamacpp = None

READ_BYTES = 1 << 20
HEX_CHARACTERS = 64
# Enough for an agent's fifteen turns with some files; more needs memory.
CONTEXT_TOKENS = 32_768
# How late a signal may be seen.
LOOK_SECONDS = 1.0


class NotServed(Exception):
    """The model cannot be served; the message says why and what to do."""


def verified(path: Path, sha256: str) -> Path:
    """The path, if the file has this hash; raises `NotServed`."""
    wanted = sha256.strip().lower()
    if len(wanted) != HEX_CHARACTERS or set(wanted) - set("0123456789abcdef"):
        raise NotServed(f"--sha256 is {sha256!r}; give the 64 hexadecimal characters that the model's page shows.")
    if not path.is_file():
        raise NotServed(f"{path} is no file; give the path of a .gguf file.")
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        beginning = file.read(READ_BYTES)
        if not beginning.startswith(b"GGUF"):
            raise NotServed(f"{path} is no GGUF file; convert the model, or download its .gguf.")
        while beginning:
            hashed.update(beginning)
            beginning = file.read(READ_BYTES)
    if hashed.hexdigest() != wanted:
        raise NotServed(
            f"{path} has sha256 {hashed.hexdigest()}, not {wanted}: it was damaged or is another file; get it again."
        )
    return path


def serve(path: Path, *, port: int, context_tokens: int, parallel: int, name: str) -> Any:
    """A running server for the file; it stops when the value is dropped. Raises `NotServed`."""
    if xllamacpp is None:
        raise NotServed("The package xllamacpp is not installed; run: pip install 'chargehand[gguf]'")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    # The context is divided among the calls that run at once.
    parameters.n_ctx = context_tokens * parallel
    parameters.n_parallel = parallel
    parameters.use_jinja = True
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise NotServed(f"{path} cannot be loaded: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit code."""
    parser = argparse.ArgumentParser(prog="chargehand.workers.gguf", description="Serve a GGUF file of your own.")
    parser.add_argument("path", type=Path, help="the .gguf file")
    parser.add_argument("--sha256", required=True, help="what the file must hash to")
    parser.add_argument("--name", default="local", help="the name of the model")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--context-tokens", type=int, default=CONTEXT_TOKENS, help="of each call")
    parser.add_argument("--parallel", type=int, default=1, help="calls at once")
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        server = serve(
            verified(options.path, options.sha256),
            port=options.port,
            context_tokens=options.context_tokens,
            parallel=options.parallel,
            name=options.name,
        )
    except NotServed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    # Not one wait without end: a signal that comes just before it begins would be seen after it.
    while not stopping.wait(LOOK_SECONDS):
        pass
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
