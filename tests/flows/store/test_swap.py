from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.errors import BadRequest
from flows.store.layout import Layout
from flows.store.lock import is_held, only_build
from flows.store.swap import beside, is_unsettled, settle, swap


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a folder with three files of a run."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"old {name}")
    return Layout(tmp_path)


def contents(layout: Layout) -> dict[str, str]:
    """Return the files of the folder, hidden ones too."""
    return {layout.relative(path): path.read_text() for path in layout.run.rglob("*") if path.is_file()}


def test_files_made_beside_take_their_places(layout: Layout) -> None:
    """What was made is moved, also into new folders, what is not wanted any more goes, and nothing else changes."""
    with beside(layout) as new:
        (new.run / "a").write_text("new a")
        (new.run / "deep").mkdir()
        (new.run / "deep" / "d").write_text("new d")
        swap(layout, files=["a", "deep/d"], removed=["b", "never there"])
    assert contents(layout) == {"a": "new a", "c": "old c", "deep/d": "new d"}
    assert not layout.beside.exists()


def test_an_error_before_the_swap_changes_nothing(layout: Layout) -> None:
    """Until the moves are listed the run is the old one, and what was made goes."""
    before = contents(layout)

    def fail() -> None:
        with beside(layout) as new:
            (new.run / "a").write_text("new a")
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert contents(layout) == before


def test_what_a_kill_left_before_the_moves_is_dropped(layout: Layout) -> None:
    """Files beside without a list of moves never count; whoever holds the lock next takes them away."""
    layout.beside.mkdir()
    (layout.beside / "a").write_text("half")
    with only_build(layout):
        assert not layout.beside.exists()
    assert (layout.run / "a").read_text() == "old a"


@pytest.mark.parametrize("moved", [(), ("a",), ("a", "b")])
def test_moves_that_were_begun_are_ended(layout: Layout, moved: tuple[str, ...]) -> None:
    """Wherever the moving was interrupted, the next holder of the lock ends it."""
    layout.beside.mkdir()
    for name in ("a", "b"):
        (layout.run / name if name in moved else layout.beside / name).write_text(f"new {name}")
    (layout.beside / "moves.json").write_text(json.dumps({"files": ["a", "b"], "removed": ["c"]}))
    assert is_unsettled(layout)
    with only_build(layout):
        pass
    assert {name: text for name, text in contents(layout).items() if name != ".lock"} == {"a": "new a", "b": "new b"}
    assert not is_unsettled(layout)


@pytest.mark.parametrize(
    "moves", [b"", b"[]", b"{}", b'{"files": 1, "removed": []}', b'{"files": "xy", "removed": []}', b'{"files": [], "removed": {"x": 1}}',
    b'{"files": ["link/a"], "removed": []}', b'{"files": [""], "removed": []}', b'{"files": ["a\\u0000"], "removed": []}', b'{"files": [], "removed": ["\\ud800"]}', b'{"files": [], "removed": ["/x"]}', b'{"files": ["../a"], "removed": []}',
              b'{"files": [], "removed": ["/etc/passwd"]}', b'{"files": [["a"]], "removed": []}']
)  # fmt: skip
def test_a_damaged_list_of_moves_is_one_line_and_moves_nothing(layout: Layout, moves: bytes) -> None:
    """A list that cannot be read, or leads out of the run, is refused."""
    (layout.run / "link").symlink_to(layout.run.parent)
    layout.beside.mkdir()
    (layout.beside / "moves.json").write_bytes(moves)
    with pytest.raises(BadRequest, match="delete it and run hcoco repair"):
        settle(layout)
    assert (layout.run / "a").read_text() == "old a"


def test_a_lock_is_seen_without_touching_it(layout: Layout) -> None:
    """Somebody at work is seen while he is, and not afterwards; a missing file is held by nobody."""
    assert is_held(layout.lock) is False
    with only_build(layout):
        assert is_held(layout.lock) in (True, None)
    assert is_held(layout.lock) in (False, None)
