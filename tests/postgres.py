"""A PostgreSQL of the distribution's packages for a test: on a Unix socket, in a folder that is removed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres():
    """Yield a function from a database's name to its address; skip the test where there is no PostgreSQL."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="ltd-postgres-"))
    owner = _owner(folder)

    def run(name, *arguments):
        subprocess.run(
            [programs / name, *arguments], check=True, capture_output=True, cwd=folder, env={}, **owner
        )

    try:
        run("initdb", "--auth=trust", "--username=ltd", "--no-sync", "--encoding=UTF8", folder / "data")
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"],
            stderr=(folder / "log").open("w"),
            cwd=folder,
            env={},
            **owner,
        )
        try:
            _wait(server, folder, programs)

            def database(name):
                run("createdb", "--host", folder, "--username", "ltd", name)
                return f"postgresql+psycopg2://ltd@/{name}?host={folder}"

            yield database
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing is kept
            server.wait()
    finally:
        shutil.rmtree(folder)


def _programs():
    """The folder of initdb and postgres, which distributions keep off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and (initdb := shutil.which("initdb")):
        found = [Path(initdb)]
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    return found[-1].parent


def _owner(folder):
    """Who runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses root, and there is no user postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait(server, folder, programs):
    for _ in range(600):
        ready = subprocess.run(
            [programs / "pg_isready", "--quiet", "--host", folder], capture_output=True, env={}
        )
        if ready.returncode == 0:
            return
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    raise TimeoutError("PostgreSQL does not answer")
