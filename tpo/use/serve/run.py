"""Listening at an address until SIGINT or SIGTERM; what is under way then has some seconds to end."""

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn

from tpo.config.schema import ServeConfig
from tpo.config.streams import tell
from tpo.store.errors import TpoError
from tpo.use.opened import open_policies
from tpo.use.serve.app import ServedPolicy
from tpo.use.serve.sampler import Sampler

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> None:
    """Serve a policy until the process is asked to end.

    Raises:
        TpoError: If the address is taken, the policy cannot be loaded, or its engine fails later.
    """
    api_key = os.environ.get(config.api_key_env) or None
    with closing(listen(config.host, config.port)) as listening, open_policies(config) as policies:
        name = config.name or policies.name
        policy = policies.load()
        with closing(Sampler(policy.engine, max_waiting=config.max_waiting)) as sampler:
            served = ServedPolicy(policy, sampler, name=name, seed=config.seed, api_key=api_key)
            server = Server(served, sampler, config=config)
            server.told = told_of(config, url_of(listening), name=name, has_key=api_key is not None)
            with quiet_end():
                server.run(sockets=[listening])
            if sampler.failure is not None:
                raise TpoError(f"the engine has failed: {sampler.failure}")


class Server(uvicorn.Server):
    """Says where it listens once it does, and ends when its engine has failed.

    Attributes:
        told: What it says.
    """

    told = ""

    def __init__(self, served: ServedPolicy, sampler: Sampler, *, config: ServeConfig) -> None:
        """Listen nowhere yet."""
        settings = uvicorn.Config(
            served.app(),
            log_config=None,  # Hydra's
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=config.shutdown_s,
        )
        super().__init__(settings)
        self._sampler = sampler

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            tell(self.told)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; called several times a second."""
        return await super().on_tick(counter) or self._sampler.failure is not None


def told_of(config: ServeConfig, url: str, *, name: str, has_key: bool) -> str:
    """Return what is said of a server that listens."""
    if has_key:
        return f"{name} is served at {url}/v1; the key in {config.api_key_env} is asked for"
    told = f"{name} is served at {url}/v1; no key is asked for"
    if is_loopback(config.host):
        return told
    return f"{told}, and others reach {config.host}: {config.api_key_env} in the environment sets one"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, before a model is loaded for nothing.

    Raises:
        TpoError: If that is not possible.
    """
    try:
        [(family, kind, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise TpoError(f"host={host} port={port}: cannot listen there ({error.strerror}); set another port") from None
    return bound


def url_of(listening: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def quiet_end() -> Iterator[None]:
    """Let the signals that end a server end it only: uvicorn raises them again for whoever started it."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
