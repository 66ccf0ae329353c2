"""Replica sets and a sharded cluster of MongoDB, each process a container.

The containers of a cluster share one network namespace, whose ports are published: so a member is
`127.0.0.1:<port>` for the others as for the tests, on Linux as on Docker Desktop.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_SECONDS = 120.0
ELECTION_MILLISECONDS = 2000
MOST_MEMBERS = 8


def docker(*arguments: str) -> str:
    """Run Docker's command line; returns what it printed, or fails with what it said."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout.strip()


def client_of(port: int) -> MongoClient[Any]:
    """A client of this one process, whatever it is a member of."""
    return MongoClient(
        f"mongodb://127.0.0.1:{port}/?directConnection=true",
        serverSelectionTimeoutMS=int(PATIENCE_SECONDS * 1000),
        tz_aware=True,
    )


class Cluster:
    """Containers of one version of MongoDB; leaving the context removes them."""

    def __init__(self, version: str) -> None:
        """Make none yet.

        Args:
            version: Tag of the image `mongo`.
        """
        self.image = f"mongo:{version}"
        self.url = ""
        self._ports = [free_port() for _ in range(MOST_MEMBERS)]
        self._containers: dict[int, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        published = [f"--publish=127.0.0.1:{port}:{port}" for port in self._ports]
        anchor = docker("run", "--detach", *published, self.image, "sleep", "infinity")
        self._anchor = anchor
        self._stack.callback(docker, "rm", "--force", "--volumes", anchor)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _run(self, program: str, *options: str) -> int:
        """Run a process of the cluster; returns its port."""
        port = self._ports.pop()
        name = docker(
            *("run", "--detach", f"--network=container:{self._anchor}", self.image, program),
            *("--port", str(port), "--bind_ip_all"),
            # Tests let commands fail by it.
            *("--setParameter", "enableTestCommands=1", *options),
        )
        self._stack.callback(docker, "rm", "--force", "--volumes", name)
        self._containers[port] = name
        return port

    def _mongod(self, *options: str) -> int:
        return self._run("mongod", "--wiredTigerCacheSizeGB", "0.25", *options)

    def kill(self, port: int) -> None:
        """End a process as a crash does."""
        docker("kill", self._containers[port])

    def start(self, port: int) -> None:
        """Start a killed process on its files."""
        docker("start", self._containers[port])

    def _replica_set(self, name: str, members: int, *options: str) -> list[int]:
        ports = [self._mongod("--replSet", name, *options) for _ in range(members)]
        config: dict[str, Any] = {
            "_id": name,
            "members": [{"_id": i, "host": f"127.0.0.1:{port}"} for i, port in enumerate(ports)],
            "settings": {"electionTimeoutMillis": ELECTION_MILLISECONDS},
        }
        if "--configsvr" in options:
            config["configsvr"] = True
        with client_of(ports[0]) as client:
            client.admin.command("replSetInitiate", config)
        self.primary_of(ports)
        return ports

    def make_replica_set(self) -> None:
        """Three members; `url` names them."""
        self.members = self._replica_set("rs0", 3)
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.members)
        self.url = f"mongodb://{hosts}/?replicaSet=rs0"

    def make_shards(self) -> None:
        """Two shards of one member each; `url` names the router."""
        [config] = self._replica_set("config", 1, "--configsvr")
        self.members = [
            port
            for number in range(2)
            for port in self._replica_set(f"shard{number}", 1, "--shardsvr")
        ]
        router = self._run("mongos", "--configdb", f"config/127.0.0.1:{config}")
        self.url = f"mongodb://127.0.0.1:{router}/?directConnection=true"
        with self.client() as client:
            for number, port in enumerate(self.members):
                client.admin.command("addShard", f"shard{number}/127.0.0.1:{port}")

    def client(self) -> MongoClient[Any]:
        """A client that waits for a primary, or a router, for as long as it may take."""
        milliseconds = int(PATIENCE_SECONDS * 1000)
        return MongoClient(self.url, serverSelectionTimeoutMS=milliseconds, tz_aware=True)

    def primary_of(self, ports: Sequence[int]) -> int:
        """The member that takes writes, waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for port in ports:
                if self._state(port) == "primary":
                    return port
            time.sleep(0.1)
        raise AssertionError("no primary")

    def until_all_are_back(self) -> None:
        """Return when one member is primary and all others follow it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            states = sorted(map(self._state, self.members))
            if states == ["primary", *["secondary"] * (len(states) - 1)]:
                return
            time.sleep(0.1)
        raise AssertionError("a member is not back")

    def _state(self, port: int) -> str:
        try:
            with MongoClient[Any](
                f"mongodb://127.0.0.1:{port}/?directConnection=true",
                serverSelectionTimeoutMS=1000,
            ) as client:
                hello = client.admin.command("hello")
        except PyMongoError:
            return "away"
        return "primary" if hello["isWritablePrimary"] else "secondary" * hello["secondary"]

    def step_down(self) -> None:
        """Have the primary of the replica set give up its place."""
        with client_of(self.primary_of(self.members)) as client:
            client.admin.command("replSetStepDown", 10, secondaryCatchUpPeriodSecs=5)

    def spread(self, database: str) -> list[str]:
        """Shard the streams of a database as docs/databases.md says; returns the ranges' keys."""
        digits = "0123456789abcdef"
        space = f"{database}.streams"
        with self.client() as client:
            admin = client.admin
            admin.command("enableSharding", database)
            admin.command("shardCollection", space, key={"session": 1})
            for first in digits[1:]:
                admin.command("split", space, middle={"session": first})
        for number, first in enumerate(digits):
            self.move(database, first, number % 2)
        return list(digits)

    def move(self, database: str, first: str, shard: int) -> None:
        """Move the range that holds this key to a shard."""
        with self.client() as client:
            client.admin.command(
                "moveChunk", f"{database}.streams", find={"session": first}, to=f"shard{shard}"
            )
