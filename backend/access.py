"""Who may use the service: this machine alone, or who has a key. CURVE of ZeroMQ encrypts, and tells both sides who is
there.

`backend keys DIR` makes DIR/server.json, which stays with the service, and DIR/client.json, which goes to the clients:

    server.json   {"public", "secret", "clients": [public, ..]}    clients: whom the service lets in
    client.json   {"server", "public", "secret"}                   server: the public key of the service

Every key is 40 characters of Z85. Who has client.json can use the service; both files are for their owner alone (0600).
"""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85

from backend.client import BackendError, Keys, check_key, read_json
from backend.protocol import DEFAULT_ADDRESS

SERVER, CLIENT = "server.json", "client.json"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks; RFC 27


class ServerKeys(NamedTuple):
    """Z85 texts."""

    secret: str
    clients: frozenset[str]  # public keys

    @staticmethod
    def read(folder: Path) -> ServerKeys:
        """Those of `backend keys FOLDER`. Raises BackendError."""
        path = Path(folder, SERVER)
        content = read_json(path, f"make it with `backend keys {folder}`")
        clients = content.get("clients")
        if not isinstance(clients, list) or not clients:
            raise BackendError(f"{path} names no clients; make it anew with `backend keys`")
        secret, *clients = (check_key(path, x) for x in (content.get("secret"), *clients))
        return ServerKeys(secret, frozenset(clients))


def make_keys(folder: Path) -> None:
    """Make server.json and client.json in a folder. Raises BackendError when they cannot be made, or are there."""
    if not zmq.has("curve"):
        raise BackendError("this pyzmq was built without CURVE; install pyzmq from PyPI")
    server, server_secret, client, client_secret = (x.decode() for x in (*zmq.curve_keypair(), *zmq.curve_keypair()))
    try:
        for path in (Path(folder, SERVER), Path(folder, CLIENT)):
            if path.exists():  # before either is written: they only work together
                raise BackendError(f"{path} is there already; delete it, or choose another folder")
        Path(folder).mkdir(parents=True, exist_ok=True)
        _write(Path(folder, SERVER), {"public": server, "secret": server_secret, "clients": [client]})
        _write(Path(folder, CLIENT), Keys(server, client, client_secret)._asdict())
    except OSError as error:
        raise BackendError(f"{folder} cannot be written to ({error.strerror}); choose another folder") from None


def _write(path: Path, content: dict) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


class Gate:
    """Answers libzmq's question whom to let in (ZAP, RFC 27), in the thread of the service.

    Make it before the socket that it guards is bound, and call `answer` whenever `socket` can be read.
    """

    def __init__(self, context: zmq.Context, keys: ServerKeys) -> None:
        self._clients = {z85.decode(key) for key in keys.clients}
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP_ENDPOINT)

    @staticmethod
    def guard(socket: zmq.Socket, keys: ServerKeys) -> None:
        """Let only clients that hold a known key talk to a socket that is not bound yet."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, "backend")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody gets in while no gate answers

    def answer(self) -> None:
        """All questions that wait."""
        while self.socket.poll(0):
            version, request, _domain, _address, _identity, mechanism, *credentials = self.socket.recv_multipart()
            known = mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] in self._clients
            status, text = (b"200", b"OK") if known else (b"400", b"unknown key")
            self.socket.send_multipart([version, request, status, text, b"", b""])


def endpoint_of(bind: str, guarded: bool = False) -> str:
    """The address in the form that ZeroMQ binds. Raises BackendError unless it is guarded by keys, or only this machine
    can reach it."""
    try:
        url = urlsplit(bind)
        host, port = url.hostname, url.netloc.rpartition(":")[2]
        if url.scheme == "ipc" and url.netloc + url.path:
            return bind
        host = "127.0.0.1" if host == "localhost" else "0.0.0.0" if host == "*" else host
        local = ipaddress.ip_address(host).is_loopback
        if url.scheme == "tcp" and (port == "*" or port.isdecimal()) and (guarded or local):
            return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    except ValueError:
        pass
    if guarded:
        raise BackendError(f"{bind} is no address to listen at; bind one like tcp://0.0.0.0:5555")
    raise BackendError(
        f"without keys the backend serves this machine only: bind an address like {DEFAULT_ADDRESS}, not {bind}, or "
        "make keys with `backend keys DIR` and serve with --keys DIR"
    )
