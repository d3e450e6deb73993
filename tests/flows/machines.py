"""Machines for tests: network namespaces of this one, joined by a bridge, each with a Ray of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
NETWORK: Final = "10.213.77"
PORTS: Final = (
    "--metrics-export-port 8090 --dashboard-agent-listen-port 52365 --dashboard-agent-grpc-port 52366 "
    "--runtime-env-agent-port 52367"
)
"""Fixed, because Ray falls over where its agents take more than 15 s to choose their own, on a busy machine."""
RAY: Final = Path(sys.executable).with_name("ray")


def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; raise with what it said where it fails."""
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, check=False, text=True, timeout=300
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done


def why_no_machines() -> str | None:
    """Say why there can be no namespaces here; None where there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    probe = subprocess.run(["ip", "netns", "add", "hcoco-probe"], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", "hcoco-probe"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "network namespaces are not allowed here"


@dataclass
class Machine:
    """A namespace with an address and a folder for its Ray."""

    number: int
    folder: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        """Return the namespace's name."""
        return f"hcoco-{self.number}"

    @property
    def address(self) -> str:
        """Return the IP address."""
        return f"{NETWORK}.{10 + self.number}"

    def start_ray(self, *words: str, before: str = ":") -> None:
        """Run `ray start` here, after a shell command, in whose mounts it and its workers live."""
        ray = (
            f"{RAY} start --node-ip-address {self.address} --num-cpus 1 --object-store-memory 100000000 "
            f"--disable-usage-stats {PORTS} {' '.join(words)}"
        )
        run("ip", "netns", "exec", self.name, "sh", "-c", f"{before} && exec {ray}", environment=self.environment)

    def connect(self) -> None:
        """Add the namespace and plug it into the bridge."""
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", self._cable, "master", "hcoco-bridge", "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        self.plug()

    def plug(self) -> None:
        """Connect the cable."""
        run("ip", "-n", self.name, "link", "set", "eth0", "up")

    def kill(self) -> None:
        """Pull the cable, so that nobody hears of the end, and kill every process."""
        run("ip", "-n", self.name, "link", "set", "eth0", "down")
        self.kill_processes()

    def kill_processes(self) -> None:
        """Kill every process of this machine as `kill -9` does."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, check=False, text=True)
        for pid in found.stdout.split():
            subprocess.run(["kill", "-9", pid], capture_output=True, check=False)

    def remove(self) -> None:
        """Remove the namespace."""
        self.kill_processes()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True, check=False)

    @property
    def _cable(self) -> str:
        return f"hcoco-veth{self.number}"


@contextmanager
def three_machines(environment: Mapping[str, str]) -> Iterator[list[Machine]]:
    """Yield three machines, without processes; they and their folders are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hm-", dir="/tmp") as folder:
        machines = [Machine(number, Path(folder) / str(number), dict(environment)) for number in (1, 2, 3)]
        try:
            _clear(machines)
            run("ip", "link", "add", "hcoco-bridge", "type", "bridge")
            run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", "hcoco-bridge")
            run("ip", "link", "set", "hcoco-bridge", "up")
            for machine in machines:
                machine.connect()
            yield machines
        finally:
            _clear(machines)


def _clear(machines: list[Machine]) -> None:
    """Remove what these tests, or some that were killed, have made."""
    for machine in machines:
        machine.remove()
    subprocess.run(["ip", "link", "del", "hcoco-bridge"], capture_output=True, check=False)
