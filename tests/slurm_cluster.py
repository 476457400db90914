"""A SLURM cluster of one node, this machine: munge, controller and node daemon in a temporary folder.

    python tests/slurm_cluster.py COMMAND ...    # runs the command on it; needs slurm-wlm and munge

The node claims a GPU and more cores and memory than there are, so that jobs of the profile fit: what is
tested is that they are submitted, run and watched, not their speed. Daemons listen on the loopback interface.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=1
# Finished jobs stay known for an hour: there is no accounting database to ask.
MinJobAge=3600
KillWait=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=300000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NotInstalled(Exception):
    """SLURM or munge is missing; says which programs."""


def find_programs():
    """Paths of the daemons; administrators' programs are not always on a user's path."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    found = {name: shutil.which(name, path=path) for name in (*DAEMONS, "sbatch", "srun", "squeue")}
    if missing := [name for name, program in found.items() if program is None]:
        raise NotInstalled(f"{', '.join(missing)} not found (apt-get install slurm-wlm munge)")
    return found


@contextmanager
def cluster():
    """Yield the environment in which sbatch and squeue speak to the cluster; stop it afterwards."""
    programs = find_programs()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ltd-slurm-")))
        (folder / "munge.key").touch(mode=0o600)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        ports = dict(zip(("controller_port", "node_port"), free_ports(2), strict=True))
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        text = CONFIGURATION.format(folder=folder, host=host, user=user, **ports)
        (folder / "slurm.conf").write_text(text.lstrip())
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        for name in ("state", "spool"):
            (folder / name).mkdir()
        # The executor takes SLURM's variables, this one too, from the commands that its jobs start.
        configuration = folder / "slurm.conf"
        step = folder / "bin/srun"
        step.parent.mkdir()
        step.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {programs["srun"]} "$@"\n')
        step.chmod(0o755)
        path = f"{step.parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": path}
        munge = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        commands = {
            "munged": ["--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
            "slurmctld": ["-D", "-c"],
            "slurmd": ["-D", "-N", host],
        }
        for name in DAEMONS:
            stack.enter_context(
                daemon([programs[name], *commands[name]], folder / f"{name}.log", environment)
            )
            if name == "munged":
                wait_for((folder / "munge.socket").exists, folder / "munged.log")

        def ready():
            state = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True
            )
            return state.stdout.split() == ["idle"]

        wait_for(ready, folder / "slurmctld.log", folder / "slurmd.log")
        yield environment


@contextmanager
def daemon(command, log, environment):
    """Run a program in the foreground of its own process, and stop that process at the end."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def free_ports(count):
    """Numbers of ports on the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition, *logs, seconds=60):
    """Wait until `condition()`; raises TimeoutError with the ends of the logs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs))
        time.sleep(0.2)


def main():
    """Run a command on the cluster and end as it ends."""
    try:
        with cluster() as environment:
            sys.exit(subprocess.run(sys.argv[1:], env=environment).returncode)
    except NotInstalled as error:
        sys.exit(f"SLURM: {error}")


if __name__ == "__main__":
    main()
