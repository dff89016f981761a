"""A host that is not there: a folder that stands for its root, the commands on its PATH, and what it can download."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import signal
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from scripts.dev.settings import inherited_environment
from tests.house.tree import ROOT

WORLD = Path(__file__).with_name("world.sh")
SCRIPTED = ("curl", "df", "id", "k3s-installer", "nproc", "sleep", "sudo", "systemctl", "uname")
# Real tools of a host that has nothing but its shell and coreutils.
REAL = [
    "base64",
    "bash",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "dirname",
    "env",
    "find",
    "grep",
    "gzip",
    "head",
    "install",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "readlink",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "tail",
    "tar",
    "touch",
    "tr",
    "true",
    "wc",
    "xargs",
]
# Commands that change something, by their beginning.
CHANGES = re.compile(
    r"helm( --kubeconfig \S+)? (upgrade|install|uninstall|rollback|pull)|systemctl (start|restart|stop)|k3s-installer"
    r"|curl |k3s-uninstall|(k3s )?kubectl( --kubeconfig \S+)? (apply|delete|create|label|patch|rollout|wait)"
)
DRIVER = ("nvidia-smi",)
TOOLKIT = ("nvidia-container-runtime",)


@dataclass(frozen=True)
class Outcome:
    """What a run left."""

    status: int
    out: str
    told: str
    ran: list[str]

    @property
    def changes(self) -> list[str]:
        """The commands that change something, in order."""
        return [line for line in self.ran if CHANGES.match(line)]

    @property
    def planned(self) -> list[str]:
        """The commands that a dry run shows."""
        return [line[4:] for line in self.out.splitlines() if line.startswith("  $ ")]

    def order(self, *wanted: str) -> None:
        """Fail unless each of the texts comes in a command, one after the other."""
        rest = iter(self.ran)
        for text in wanted:
            assert any(text in line for line in rest), f"{text!r} is not in its place:\n" + "\n".join(self.ran)


def _can_be_interrupted() -> None:
    """Undo what a shell does to what it starts in the background, as these tests may have been: ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Host:
    """A fresh x86_64 host with 16 processors, 64 GiB and no GPU, with a checkout of this repository on it."""

    def __init__(self, folder: Path) -> None:
        self.world = folder / "world"
        self.root = folder / "root"
        self.checkout = folder / "checkout"
        self.bin = self.world / "bin"
        self.port: int | None = None
        for place in ("bin", "state", "answers", "downloads"):
            (self.world / place).mkdir(parents=True)
        self.checkout.mkdir()
        for name in ("scripts", "worker_cluster"):
            (self.checkout / name).symlink_to(ROOT / name)
        shutil.copy(WORLD, self.world / "world.sh")
        for name in REAL:
            found = shutil.which(name)
            assert found, f"these tests need {name}"
            (self.bin / name).symlink_to(found)
        self.has(*SCRIPTED)
        self._fill_root()
        self.environment: dict[str, str] = self._offer_downloads()

    def _fill_root(self) -> None:
        self.file("proc/meminfo", "MemTotal:       65800000 kB\nMemFree: 1 kB\n")
        self.file("proc/cpuinfo", "flags\t\t: fpu sse4_2 avx avx2\n")
        self.file("proc/net/tcp", "  sl  local_address rem_address   st\n")
        self.file("proc/net/tcp6", "  sl  local_address rem_address   st\n")
        self.file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
        for place in ("var/lib", "usr/local/bin", "etc/systemd/system", "sys/bus/pci/devices"):
            (self.root / place).mkdir(parents=True, exist_ok=True)

    def _offer_downloads(self) -> dict[str, str]:
        """Put there what can be downloaded; return the pins of all of it."""
        binary = self.download("k3s", f'#!/bin/sh\nME=k3s exec "{self.world}/world.sh" "$@"\n')
        arm_binary = self.download("k3s-arm64", f'#!/bin/sh\n# arm64\nME=k3s exec "{self.world}/world.sh" "$@"\n')
        installer = self.download("install.sh", f'#!/bin/sh\nexec "{self.bin}/k3s-installer" "$@"\n')
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for arch in ("amd64", "arm64"):
                data = f'#!/bin/sh\nME=helm exec "{self.world}/world.sh" "$@"\n'.encode()
                entry = tarfile.TarInfo(f"linux-{arch}/helm")
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
        helm = [self.download(f"helm-v4.2.4-linux-{arch}.tar.gz", archive.getvalue()) for arch in ("amd64", "arm64")]
        for name in ("standard-install.yaml", "v1-manifests.yaml", "manifests.yaml"):
            self.download(name, "kind: CustomResourceDefinition\n")
        return {
            "K3S_SHA256_AMD64": binary,
            "K3S_SHA256_ARM64": arm_binary,
            "K3S_INSTALL_SHA256": installer,
            "HELM_SHA256_AMD64": helm[0],
            "HELM_SHA256_ARM64": helm[1],
            "DEVICE_PLUGIN_SHA256": self.download("nvidia-device-plugin.tgz", "chart"),
            "GATEWAY_API_SHA256": hashlib.sha256(b"kind: CustomResourceDefinition\n").hexdigest(),
        }

    def has(self, *commands: str) -> Host:
        """Put scripted commands on its PATH."""
        for name in commands:
            (self.bin / name).symlink_to(self.world / "world.sh")
        return self

    def lacks(self, *commands: str) -> Host:
        """Take commands off its PATH."""
        for name in commands:
            (self.bin / name).unlink()
        return self

    def file(self, path: str, text: str, mode: int = 0o644) -> Host:
        """Write a file under its root."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        return self

    def answers(self, **answers: str) -> Host:
        """Say what is answered to a question of world.sh (`_` for `-`)."""
        for name, text in answers.items():
            (self.world / "answers" / name.replace("_", "-")).write_text(text)
        return self

    def forget(self, *names: str) -> Host:
        """Take answers back."""
        for name in names:
            (self.world / "answers" / name.replace("_", "-")).unlink()
        return self

    def state(self, **facts: str) -> Host:
        """Say what is so in the cluster (`_` for `-`)."""
        for name, text in facts.items():
            (self.world / "state" / name.replace("_", "-")).write_text(text)
        return self

    def listens(self, port: int) -> Host:
        """Let something listen on a port."""
        line = f"   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n"
        return self.file("proc/net/tcp", f"  sl  local_address rem_address   st\n{line}")

    def download(self, name: str, content: str | bytes) -> str:
        """Offer a file for download; return its checksum."""
        data = content.encode() if isinstance(content, str) else content
        (self.world / "downloads" / name).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def with_k3s(self) -> Host:
        """Let somebody have installed k3s."""
        self.file("usr/local/bin/k3s", (self.world / "downloads" / "k3s").read_text(), mode=0o755)
        self.file("etc/systemd/system/k3s.service", "[Service]\n")
        self.file("var/lib/rancher/k3s/agent/etc/containerd/config.toml", "runc\n")
        return self.state(running="", runtimeclass="")

    def with_gpu(self) -> Host:
        """Put a GPU, its driver and NVIDIA's toolkit there."""
        return self.has(*DRIVER, *TOOLKIT)

    def up(self, *arguments: str, **environment: str) -> Outcome:
        """Run k3s-up on it, with the entrance where the test's cluster answers."""
        port = ("--port", str(self.port)) if self.port else ()
        return self._run("k3s_up.sh", (*port, *arguments), environment)

    def down(self, *arguments: str, **environment: str) -> Outcome:
        """Run k3s-down on it."""
        return self._run("k3s_down.sh", arguments, environment)

    def _run(self, script: str, arguments: tuple[str, ...], environment: dict[str, str]) -> Outcome:
        log = self.world / "log"
        log.write_text("")
        known = inherited_environment()
        settings = {
            "PATH": str(self.bin),
            "HOME": str(self.world),
            "TMPDIR": str(self.world),
            "WORLD": str(self.world),
            "K3S_UP_HOST_ROOT": str(self.root),
            "K3S_UP_LOCK": str(self.world / "lock"),
            "REAL_CURL": shutil.which("curl", path=known["PATH"]) or "curl",
            "REAL_SLEEP": shutil.which("sleep", path=known["PATH"]) or "sleep",
            **self.environment,
            **environment,
        }
        # The shell stays the same process, so that the world knows whom to interrupt.
        command = ["bash", "-c", 'export K3S_UP_PID=$$; exec bash "$@"', "-", f"{self.checkout}/scripts/{script}"]
        reply = subprocess.run(
            [*command, *arguments],
            cwd=self.checkout,
            env=settings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=_can_be_interrupted,
        )
        return Outcome(reply.returncode, reply.stdout, reply.stderr, log.read_text().splitlines())

    @property
    def dotenv(self) -> str:
        """The checkout's .env."""
        place = self.checkout / ".env"
        return place.read_text() if place.exists() else ""

    @property
    def log(self) -> str:
        """What k3s-up has logged."""
        return (self.checkout / ".dev" / "k3s-up.log").read_text()
