"""Who takes part: netplane, and whatever a user could pick instead, each with its file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import peers_iptables, peers_nft
from bench.peers_nft import Layout
from bench.runner import Launcher, Measurement
from bench.states import CLUSTER_CIDR, NODE, SERVICE_CIDR, Shape, write_state

_RESTORE = (
    "-w",
    "60",
    "--noflush",
    "--counters",
)  # as kube-proxy, but patient with its neighbours

_IPV6_PART = b"# ip6tables-restore"  # where the second of two inputs begins


class Contestant(NamedTuple):
    """One way to get a cluster state into the kernel.

    Attributes:
        key: Its name in results and in the code of the bench.
        title: Its name for people.
        source: The kind of file it starts from; see ``Workspace.file``.
        argv: Program and arguments; ``FILE`` and ``NETNS`` stand for what their names say.
        reads_stdin: The file is its standard input.
        outside: It enters the namespace itself; others are started inside.
        iptables: Which variant plain ``iptables`` is for it, "" where that does not matter.
    """

    key: str
    title: str
    source: str
    argv: tuple[str, ...]
    reads_stdin: bool = False
    outside: bool = False
    iptables: str = ""


def netplane(verb: str, mode: str, *more: str) -> tuple[str, ...]:
    """The netplane command for a state: the console script beside this Python, as users run it."""
    script = Path(sys.executable).with_name("netplane")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "netplane"]
    options = ["--mode", mode, "--node", NODE]
    options += ["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR]
    return (*program, verb, "-f", "FILE", *options, *more)


def _netplane_apply(key: str, title: str, mode: str, iptables: str = "") -> Contestant:
    argv = netplane("apply", mode, "--netns", "NETNS")
    return Contestant(key, title, "state", argv, outside=True, iptables=iptables)


def _nft(key: str, title: str, source: str) -> Contestant:
    return Contestant(key, title, source, ("nft", "-f", "FILE"))


def _restore(key: str, title: str, source: str, variant: str) -> Contestant:
    argv = (f"iptables-{variant}-restore", *_RESTORE)
    return Contestant(key, title, source, argv, reads_stdin=True)


NETPLANE = "netplane"
NETPLANE_IPTABLES = "netplane-iptables"
NETPLANE_LEGACY = "netplane-iptables-legacy"
OWN_NFT = "own-nft"
OWN_IPTABLES = "own-iptables"
OWN_LEGACY = "own-iptables-legacy"
KUBE_NFT_1_35 = "kube-proxy-nft-1.35"
KUBE_NFT_1_36 = "kube-proxy-nft-1.36"
KUBE_NFT = "kube-proxy-nft-1.37"
KUBE_IPTABLES = "kube-proxy-iptables"
KUBE_LEGACY = "kube-proxy-iptables-legacy"

CONTESTANTS = {
    contestant.key: contestant
    for contestant in (
        _netplane_apply(NETPLANE, "netplane, nftables", "nftables"),
        _netplane_apply(NETPLANE_IPTABLES, "netplane, iptables-nft", "iptables", "nft"),
        _netplane_apply(NETPLANE_LEGACY, "netplane, iptables-legacy", "iptables", "legacy"),
        _nft(OWN_NFT, "nft -f, netplane's own text", "own-nft"),
        _restore(OWN_IPTABLES, "iptables-nft-restore, netplane's own text", "own-iptables", "nft"),
        _restore(
            OWN_LEGACY, "iptables-legacy-restore, netplane's own text", "own-iptables", "legacy"
        ),
        _nft(KUBE_NFT_1_35, "nft -f, kube-proxy 1.35", "kube-nft-1.35"),
        _nft(KUBE_NFT_1_36, "nft -f, kube-proxy 1.36", "kube-nft-1.36"),
        _nft(KUBE_NFT, "nft -f, kube-proxy 1.37", "kube-nft-1.37"),
        _restore(KUBE_IPTABLES, "iptables-nft-restore, kube-proxy", "kube-iptables", "nft"),
        _restore(KUBE_LEGACY, "iptables-legacy-restore, kube-proxy", "kube-iptables", "legacy"),
    )
}


class Workspace:
    """The files of a run, each written once, when it is first asked for.

    Args:
        directory: Where; removed by whoever made it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def file(self, kind: str, shape: Shape) -> Path:
        """The file of this kind for a state.

        Args:
            kind: ``state``: the JSON of the cluster. ``own-nft``, ``own-iptables``: what
                ``netplane render`` prints for it. ``kube-nft-VERSION``, ``kube-iptables``: what
                kube-proxy loads.
            shape: Of the state.

        Raises:
            FailedError: ``netplane render`` failed.
        """
        path = self._directory / f"{shape.services}x{shape.endpoints}-{kind}"
        if path.exists():
            return path
        if kind == "state":
            write_state(shape, path)
        elif kind == "kube-iptables":
            peers_iptables.write_rules(shape, path)
        elif kind.startswith("kube-nft-"):
            peers_nft.write_rules(shape, Layout(kind.removeprefix("kube-nft-")), path)
        else:
            mode = {"own-nft": "nftables", "own-iptables": "iptables"}[kind]
            self._render(mode, shape, path)
        return path

    def environment(self, contestant: Contestant) -> dict[str, str]:
        """A PATH on which ``iptables`` is the variant the contestant is meant to find."""
        if not contestant.iptables:
            return {}
        directory = self._directory / f"path-{contestant.iptables}"
        if not directory.exists():
            directory.mkdir()
            for verb in ("", "-save", "-restore"):
                for name in ("iptables", "ip6tables"):
                    program = shutil.which(f"{name}-{contestant.iptables}{verb}")
                    if program is not None:
                        (directory / f"{name}{verb}").symlink_to(program)
        return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}

    def _render(self, mode: str, shape: Shape, path: Path) -> None:
        argv = fill(netplane("render", mode), self.file("state", shape))
        unfinished = path.with_name("rendering")
        with Launcher() as launcher:
            launcher.run(argv, stdout=unfinished)
        if mode == "iptables":
            text = unfinished.read_bytes()
            unfinished.write_bytes(text[: text.index(_IPV6_PART)])
        unfinished.rename(path)


def fill(argv: Sequence[str], path: Path, netns: str = "") -> list[str]:
    """The command with its file and its namespace filled in."""
    places = {"FILE": str(path), "NETNS": netns}
    return [places.get(word, word) for word in argv]


def load(
    contestant: Contestant, shape: Shape, workspace: Workspace, netns: str, inside: Launcher
) -> Measurement:
    """Let a contestant load a state, and measure that.

    Args:
        contestant: Who.
        shape: Of the state.
        workspace: Has the files.
        netns: The name of the namespace.
        inside: Starts programs in it.

    Raises:
        FailedError: It did not load it.
    """
    path = workspace.file(contestant.source, shape)
    argv = fill(contestant.argv, path, netns)
    env = workspace.environment(contestant)
    if contestant.outside:
        with Launcher() as outside:
            return outside.run(argv, env=env)
    return inside.run(argv, stdin=path if contestant.reads_stdin else os.devnull, env=env)
