"""A server to deploy to: everything is in one temporary folder, and ends by its own process id."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.database import Database
from tests.support.processes import ROOT, free_port, listening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHECKOUT = ROOT
PM2 = CHECKOUT / "tests" / "deploy" / "node_modules" / ".bin"
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_SECONDS = 300
START_SECONDS = 60

Environment = dict[str, str]


@dataclass(frozen=True)
class Server:
    """The server, and the checkout from which it is deployed to.

    Attributes:
        folder: Holds everything.
        work: The checkout in which the commands are given.
        port: Where the deployed service listens.
        environment: Of the commands.
        database: The database.
        ssh: Arguments with which to reach the server by ssh.
    """

    folder: Path
    work: Path
    port: int
    environment: Environment
    database: Database
    ssh: tuple[str, ...]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Server]:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="stream-service-"))
            stack.callback(_assert_nothing_runs, str(folder))
            stack.callback(shutil.rmtree, folder)
            for name in ("home", "remote", "app/shared"):
                (folder / name).mkdir(parents=True)

            port, ssh_port = free_port(), free_port()
            database = stack.enter_context(Database(folder))
            ssh_options = stack.enter_context(_sshd(folder, ssh_port))
            user = getpass.getuser()
            # pm2-deploy appends to /tmp/pm2-deploy-$USER.log, whatever TMPDIR says.
            environment = _environment(folder / "home") | {
                "USER": folder.name,
                "DEPLOY_USER": user,
                "DEPLOY_HOST": "127.0.0.1",
                "DEPLOY_PATH": str(folder / "app"),
                "DEPLOY_REPO": str(folder / "repository.git"),
                "DEPLOY_SSH_OPTIONS": " ".join(ssh_options),
            }
            stack.callback(Path(f"/tmp/pm2-deploy-{folder.name}.log").unlink, missing_ok=True)
            for home in (folder / "home", folder / "remote"):
                stack.callback(_run, ("pm2", "kill"), folder, _environment(home))

            flags = [word for option in ssh_options for word in ("-o", option)]
            ssh = (*flags, f"{user}@127.0.0.1")
            server = cls(folder, folder / "work", port, environment, database, ssh)
            server.set_limit(None)
            server._make_repository()
            yield server

    def _make_repository(self) -> None:
        """Make a repository of the files of this checkout as they are now, committed or not."""
        self.work.mkdir()
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (CHECKOUT / name).is_file():
                (self.work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, self.work / name)
        repository = str(self.folder / "repository.git")
        self.run("git", "init", "--quiet", "--bare", "--initial-branch=main", repository)
        self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "remote", "add", "origin", repository)
        self.push("The checkout")

    def change(self, name: str, old: str, new: str) -> None:
        """Change the first `old` in the file `name` to `new`."""
        text = (self.work / name).read_text()
        assert old in text
        (self.work / name).write_text(text.replace(old, new, 1))

    def push(self, subject: str) -> None:
        """Commit everything and push it."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", subject)
        self.run("git", "push", "--quiet", "--set-upstream", "origin", "main")

    def attempt(
        self, *command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout; its standard output holds its errors too."""
        return _attempt(command, self.work, environment or self.environment)

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command that must succeed; returns its output."""
        return _run(command, self.work, environment or self.environment)

    async def run_beside(self, *command: str) -> None:
        """Run a command that must succeed, `pm2 deploy` here and any other pm2 on the server."""
        run = self.run if command[:2] == ("pm2", "deploy") else self.run_there
        await asyncio.to_thread(run, *command)

    def run_there(self, *command: str) -> None:
        """Run a command that must succeed on the server."""
        self.run("ssh", *self.ssh, *command)

    def instances(self) -> list[tuple[int, str]]:
        """Process id and pm2's status of each instance."""
        listed = _run(
            ("pm2", "jlist", "--silent"), self.folder, _environment(self.folder / "remote")
        )
        return [(app["pid"], app["pm2_env"]["status"]) for app in json.loads(listed)]

    def interpreters(self) -> set[str]:
        """The Python of each instance."""
        return {
            Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0] for pid, _ in self.instances()
        }

    def set_limit(self, limit: int | None) -> None:
        """Write the file with the settings anew, with this STREAM_LIMIT or none."""
        text = f"HOST=127.0.0.1\nPORT={self.port}\nMONGO_URL={self.database.url}\n"
        if limit is not None:
            text += f"STREAM_LIMIT={limit}\n"
        self._settings.write_text(text)

    def add_setting(self, name: str, value: str) -> None:
        """Add a line to the file with the settings."""
        self._settings.write_text(f"{self._settings.read_text()}{name}={value}\n")

    @property
    def _settings(self) -> Path:
        return self.folder / "app" / "shared" / "stream-service.env"

    def variable(self, name: str) -> set[str | None]:
        """The values of a variable in the environments of the instances."""
        environments = [
            Path(f"/proc/{pid}/environ").read_text().split("\0") for pid, _ in self.instances()
        ]
        return {
            dict(line.split("=", 1) for line in lines if line).get(name) for lines in environments
        }

    @property
    def dump(self) -> Path:
        """What pm2 starts with the machine."""
        return self.folder / "remote" / ".pm2" / "dump.pm2"

    @property
    def log(self) -> Path:
        """The log of both instances."""
        return self.folder / "remote" / ".pm2" / "logs" / "stream-service.log"

    def events(self) -> list[str]:
        """What both instances have logged, in whole lines."""
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line)["event"] for line in lines]

    @contextmanager
    def nginx(self) -> Iterator[int]:
        """Run nginx with deploy/nginx.conf in front; returns its port."""
        port = free_port()
        site = (CHECKOUT / "deploy" / "nginx.conf").read_text()
        for old, new in (
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("server 127.0.0.1:3001;", f"server 127.0.0.1:{self.port};"),
            ("/var/log/nginx/stream-service.log", "access.log"),
        ):
            assert old in site
            site = site.replace(old, new)
        (self.folder / "nginx").mkdir()
        (self.folder / "nginx" / "nginx.conf").write_text(
            "daemon off; pid nginx.pid; worker_processes 1; events { }\n"
            "http { access_log off; client_body_temp_path body; proxy_temp_path proxy;\n"
            "fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n"
            f"{site}\n}}\n"
        )
        folder = str(self.folder / "nginx")
        nginx = [_program("nginx"), "-e", "error.log", "-p", folder, "-c", "nginx.conf"]
        with listening(port, *nginx, folder=self.folder):
            yield port


def _assert_nothing_runs(folder: str) -> None:
    """Fail if a process is left that has `folder` in its arguments or environment."""
    deadline = time.monotonic() + START_SECONDS
    while left := _processes_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _processes_of(folder: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if folder.encode() in command + (process / "environ").read_bytes():
                found.append(f"{process.name} {command.replace(bytes(1), b' ').decode()}")
        except OSError:  # It has ended, or is another user's.
            continue
    return found


@contextmanager
def _sshd(folder: Path, port: int) -> Iterator[list[str]]:
    """Run an sshd with keys made for it; returns the options for a client."""
    for key in ("host_key", "user_key"):
        command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        _run(command, folder, _environment(folder / "home"))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    remote = _environment(folder / "remote")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in remote.items()) + "\n"
    )
    with ExitStack() as stack:
        separation = Path("/run/sshd")
        if os.geteuid() == 0 and not separation.exists():
            # sshd insists on it. Debian's service makes it at start.
            separation.mkdir(mode=0o755)
            stack.callback(separation.rmdir)
        sshd = (_program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config"))
        stack.enter_context(listening(port, *sshd, folder=folder))
        yield [
            f"Port={port}",
            f"IdentityFile={folder}/user_key",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={folder}/known_hosts",
            "StrictHostKeyChecking=yes",
        ]


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM}")
    assert found is not None, f"{name} is not installed"
    return found


def _environment(home: Path) -> Environment:
    """What a new user's shell has, and how this machine reaches the package registry."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy")
    }
    cache = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=False
    ).stdout.strip()
    python = Path(sys.base_prefix) / "bin"
    return {
        "PIP_CACHE_DIR": cache,
        **kept,
        "HOME": str(home),
        "PM2_HOME": str(home / ".pm2"),
        "PATH": f"{PM2}:{python}:{Path(_program('node')).parent}:{SYSTEM}",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


def _attempt(
    command: tuple[str, ...], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=dict(environment), timeout=COMMAND_SECONDS, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _run(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> str:
    done = _attempt(command, folder, environment)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"
    return done.stdout
