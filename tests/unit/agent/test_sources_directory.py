"""The directory source: what files say, through all that editors and tools do to them."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path

import pytest

from netplane.agent.files.source import DirectorySource
from netplane.core.model.service import ServiceName
from tests.support.following import CLOCKS, Follower, following, snapshot_of
from tests.support.manifests import Object, endpoint_slice, endpoints, node, pod, service

WEB = ServiceName("default", "web")
TWO = [service("web"), endpoint_slice("web")]
Story = Callable[[Follower], Coroutine[None, None, None]]


def write(path: Path, objects: Iterable[Object]) -> None:
    """Put a file in place at once, as kubelets and careful editors do."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    new.rename(path)


def follow(
    path: Path,
    story: Story,
    *,
    settle: float = 0.05,
    on_fault: Callable[[str], object] | None = None,
) -> None:
    async def run() -> None:
        source = DirectorySource(
            [path], node_name="node-1", clocks=CLOCKS, on_fault=on_fault, settle=settle
        )
        await following(source, story)

    asyncio.run(run())


def says(follower: Follower, *objects: Object) -> Callable[[], bool]:
    snapshot = snapshot_of(objects)
    return lambda: follower.source.in_sync and follower.equals(snapshot)


def test_files_that_come_change_and_go(tmp_path: Path) -> None:
    write(tmp_path / "a.json", TWO)

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        other = [service("db", cluster_ips=["172.30.0.11"]), endpoint_slice("db")]
        write(tmp_path / "b.json", other)
        await follower.until(says(follower, *TWO, *other))
        moved = [service("web", cluster_ips=["172.30.0.12"]), endpoint_slice("web", [])]
        write(tmp_path / "a.json", moved)
        await follower.until(says(follower, *moved, *other))
        (tmp_path / "b.json").unlink()
        await follower.until(says(follower, *moved))
        assert follower.source.fault == ""

    follow(tmp_path, story)


def test_the_later_file_counts_and_the_earlier_one_comes_back(tmp_path: Path) -> None:
    later = service("web", cluster_ips=["172.30.0.12"])
    write(tmp_path / "a.json", TWO)
    write(tmp_path / "b.json", [later])

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO, later))
        assert follower.services[WEB].cluster_ips == ("172.30.0.12",)
        (tmp_path / "b.json").unlink()
        await follower.until(says(follower, *TWO))

    follow(tmp_path, story)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b'{"apiVersion": "v1", "kind": "Se', "not JSON", id="half-written"),
        pytest.param(b"  \n", "an empty List", id="emptied"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="no text"),
        pytest.param(b"- a\n- b\n", "not an object", id="no object"),
    ],
)
def test_a_broken_file_says_what_it_said_and_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    write(tmp_path / "a.json", TWO)
    other = service("db", cluster_ips=["172.30.0.11"])

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        (tmp_path / "a.json").write_bytes(content)
        write(tmp_path / "b.json", [other])
        await follower.until(lambda: bool(follower.problems) and len(follower.services) == 2)
        [(problem,)] = follower.problems.values()
        assert problem.name == str(tmp_path / "a.json")
        assert reason in problem.reason
        assert "kept as it was" in problem.reason
        write(tmp_path / "a.json", TWO)
        await follower.until(says(follower, *TWO, other))

    follow(tmp_path, story)


def test_it_is_not_in_sync_before_every_file_was_read(tmp_path: Path) -> None:
    write(tmp_path / "a.json", TWO)
    (tmp_path / "b.yaml").write_text("kind: [\n")

    async def story(follower: Follower) -> None:
        await follower.until(lambda: "b.yaml" in follower.source.fault)
        assert not follower.source.in_sync
        assert follower.source.take() is None
        (tmp_path / "b.yaml").unlink()
        await follower.until(says(follower, *TWO))
        assert follower.source.fault == ""

    follow(tmp_path, story)


def test_an_emptied_directory_is_looked_at_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.json", TWO)
    counts: list[int] = []

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        (tmp_path / "a.json").unlink()
        write(tmp_path / "a.json", [*TWO, service("db", cluster_ips=["172.30.0.11"])])

        def grown() -> bool:
            counts.append(len(follower.services))
            return len(follower.services) == 2

        await follower.until(grown)
        (tmp_path / "a.json").unlink()
        await follower.until(says(follower))

    follow(tmp_path, story, settle=0.2)
    assert 0 not in counts


def test_a_directory_that_is_gone_is_no_wish_to_remove_everything(tmp_path: Path) -> None:
    path = tmp_path / "manifests"
    path.mkdir()
    write(path / "a.json", TWO)

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        path.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "a.json").touch()
        await follower.until(lambda: "No such file" in follower.source.fault)
        assert WEB in follower.services
        path.mkdir()
        write(path / "a.json", [*TWO, service("db", cluster_ips=["172.30.0.11"])])
        await follower.until(lambda: len(follower.services) == 2)
        assert follower.source.fault == ""

    follow(path, story)


def test_a_pipe_is_waited_for_by_nobody(tmp_path: Path) -> None:
    """To open one blocks until somebody writes to it, and nothing could end the agent then."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def story(follower: Follower) -> None:
        await follower.until(lambda: "neither a file nor" in follower.source.fault)
        path.unlink()
        write(path, TWO)
        await follower.until(says(follower, *TWO))

    follow(path, story)


def test_that_nothing_can_be_read_is_told_and_its_end(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "manifests"
    path.mkdir()
    write(path / "a.json", TWO)

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        (path / "b.json").write_text("{")
        await follower.until(lambda: bool(follower.problems))
        assert told == [], "a file's fault is a problem of that file"
        path.rename(tmp_path / "elsewhere")
        await follower.until(lambda: len(told) == 1)
        (tmp_path / "elsewhere").rename(path)
        await follower.until(lambda: len(told) == 2)

    follow(path, story, on_fault=told.append)
    assert told == [f"{path}: No such file or directory", ""]


def test_a_single_file_that_editors_replace(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    write(path, TWO)

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        for number in range(3):
            now = [service("web", cluster_ips=[f"172.30.1.{number + 1}"]), TWO[1]]
            write(path, now)
            await follower.until(says(follower, *now))
        with path.open("a") as file:
            file.write("\n")
        path.write_text(json.dumps(TWO[0]))
        await follower.until(says(follower, TWO[0]))

    follow(path, story)


def test_a_mounted_config_map_is_a_link_that_moves(tmp_path: Path) -> None:
    for version, objects in (("v1", TWO), ("v2", TWO[:1])):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "web.json", objects)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "web.json").symlink_to("..data/web.json")

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, *TWO))
        (tmp_path / "..new").symlink_to("v2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await follower.until(says(follower, TWO[0]))

    follow(tmp_path, story)


def test_pods_and_endpoints_stand_in_and_the_node_is_known(tmp_path: Path) -> None:
    own = node("node-1", ip="192.0.2.1", zone="zone-a")
    selecting = service("web", selector={"app": "web"})
    made = pod("web-1", "10.244.1.7", labels={"app": "web"})
    mirrored = [service("db", cluster_ips=["172.30.0.11"]), endpoints("db")]
    write(tmp_path / "a.json", [own, selecting])
    write(tmp_path / "b.json", [made, *mirrored])

    async def story(follower: Follower) -> None:
        await follower.until(says(follower, own, selecting, made, *mirrored))
        assert follower.slices[WEB][0].endpoints[0].address == "10.244.1.7"
        assert follower.node is not None
        assert follower.node.zone == "zone-a"
        write(tmp_path / "b.json", [pod("web-1", "10.244.1.8", labels={"app": "web"})])
        await follower.until(lambda: len(follower.services) == 1)
        assert follower.slices[WEB][0].endpoints[0].address == "10.244.1.8"
        tainted = node("node-1", ip="192.0.2.1", zone="zone-b")
        tainted["spec"]["taints"] = [{"key": "ToBeDeletedByClusterAutoscaler"}]
        write(tmp_path / "a.json", [tainted, selecting])
        await follower.until(lambda: follower.eligible is False)
        assert follower.node.zone == "zone-b"

    follow(tmp_path, story)


class Editor:
    """Random edits of a few files: objects that are refused, that move, that occur twice."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.held: dict[str, list[Object]] = {}
        self._folder = folder

    @property
    def whole(self) -> list[Object]:
        """What a fresh reader finds."""
        return [thing for name in sorted(self.held) for thing in self.held[name]]

    def edit(self) -> None:
        name = f"{self.rng.randrange(6)}.json"
        if self.rng.random() < 0.2 and name in self.held:
            del self.held[name]
            (self._folder / name).unlink()
            return
        objects: list[Object] = []
        for _ in range(self.rng.randrange(1, 4)):
            number = self.rng.randrange(8)
            address = self.rng.choice([f"172.30.0.{number + 1}", "127.0.0.1"])
            objects += [
                service(f"web-{number}", cluster_ips=[address]),
                endpoint_slice(f"web-{self.rng.randrange(8)}", name=f"slice-{number}"),
            ]
        if self.rng.random() < 0.1:
            objects.append(endpoints("web-1"))
        self.held[name] = objects
        write(self._folder / name, objects)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_edits_end_as_a_fresh_reader_sees_them(tmp_path: Path, seed: int) -> None:
    editor = Editor(tmp_path, seed)

    async def story(follower: Follower) -> None:
        for _ in range(30):
            editor.edit()
            follower.take()
            await asyncio.sleep(editor.rng.random() * 0.02)  # pacing of the story only
        await follower.until(says(follower, *editor.whole))

    editor.edit()
    follow(tmp_path, story)


@pytest.mark.parametrize("seed", range(20))
def test_each_of_many_edits_is_seen_as_a_fresh_reader_sees_it(tmp_path: Path, seed: int) -> None:
    editor = Editor(tmp_path, seed)
    source = DirectorySource([tmp_path], node_name="node-1", clocks=CLOCKS)
    source.in_sync = True
    follower = Follower(source)
    for _ in range(60):
        for _ in range(editor.rng.choice([1, 1, 3])):
            editor.edit()
        changes = source._files.read(may_empty=True)
        assert changes is not None
        source._absorb(changes)
        follower.take()
        assert follower.equals(snapshot_of(editor.whole))
