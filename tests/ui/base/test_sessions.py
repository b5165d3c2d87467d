"""Whose documents are whose, and when they go."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grit_app.documents.library import Library
from grit_app.errors import DocumentError
from grit_app.gritlm.errors import Busy
from grit_app.gritlm.scheduler import Scheduler
from grit_app.ui.base.sessions import Visitors, new_key, owner_of


class Shelf:
    """Stands for a library: remembers its folder and whether it was closed."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.is_closed = False
        self.is_empty = False

    def close(self) -> None:
        self.is_closed = True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def registry(clock: Clock, root: Path | None = None, **changes: Any) -> Visitors:
    return Visitors(Shelf, root, clock=clock, **{"grace_s": 30.0, "idle_s": 600.0, "max_visitors": 4} | changes)  # type: ignore[arg-type]


def test_two_browsers_have_two_libraries_and_tabs_of_one_share_theirs(clock: Clock, tmp_path: Path) -> None:
    visitors = registry(clock, tmp_path)
    mine, yours = new_key(), new_key()
    first = visitors.library(visitors.enter("tab-1", mine))
    again = visitors.library(visitors.enter("tab-2", mine))
    other = visitors.library(visitors.enter("tab-3", yours))
    assert first is again
    assert first is not other and first.folder != other.folder


def test_a_durable_library_is_filed_under_a_hash_of_the_key(clock: Clock, tmp_path: Path) -> None:
    """The folder's name must not let anybody who can list folders act as that browser."""
    key = new_key()
    visitor = registry(clock, tmp_path).enter("tab", key)
    assert visitor.folder is not None and visitor.folder.parent == tmp_path
    assert key not in str(visitor.folder) and visitor.folder.name not in key
    assert registry(clock, tmp_path).enter("later", key).folder == visitor.folder


@pytest.mark.parametrize("key", [None, "", "short", "../../../../etc/passwd-and-more-characters-here", 7, ["x"] * 40])
def test_a_key_that_is_none_gives_a_session_of_its_own_in_memory(clock: Clock, tmp_path: Path, key: object) -> None:
    visitors = registry(clock, tmp_path)
    one, two = visitors.enter("session-1", key), visitors.enter("session-2", key)
    assert one is not two
    assert one.folder is None and two.folder is None


def test_on_a_shared_run_nothing_goes_to_disk(clock: Clock) -> None:
    assert registry(clock, None).enter("tab", new_key()).folder is None


def test_a_reload_keeps_the_library_and_a_closed_page_frees_it_after_the_grace_time(clock: Clock) -> None:
    visitors = registry(clock)
    key = new_key()
    library = visitors.library(visitors.enter("before", key))
    visitors.leave("before")
    clock.now += 10
    assert visitors.library(visitors.enter("after", key)) is library  # a reload: new session, same browser
    visitors.leave("after")
    clock.now += 29
    visitors.sweep()
    assert not library.is_closed
    clock.now += 2
    visitors.sweep()
    assert library.is_closed and len(visitors) == 0


def test_a_library_stays_while_another_tab_is_open(clock: Clock) -> None:
    visitors = registry(clock)
    key = new_key()
    library = visitors.library(visitors.enter("one", key))
    visitors.enter("two", key)
    visitors.leave("one")
    clock.now += 100
    visitors.sweep()
    assert not library.is_closed


def test_idle_and_surplus_libraries_go_longest_idle_first(clock: Clock) -> None:
    visitors = registry(clock, max_visitors=2, idle_s=600.0)
    libraries = []
    run = visitors.begin_run("session-0", "upload")
    for number in range(3):
        clock.now += 1
        libraries.append(visitors.library(visitors.enter(f"session-{number}", new_key())))
    visitors.sweep()
    assert [library.is_closed for library in libraries] == [True, False, False]
    assert run.is_set()
    clock.now += 601
    visitors.enter("late", new_key())
    assert all(library.is_closed for library in libraries)


def test_closing_a_page_stops_what_it_started_and_nothing_else(clock: Clock) -> None:
    visitors = registry(clock)
    mine, other_kind = visitors.begin_run("mine", "chat"), visitors.begin_run("mine", "upload")
    yours = visitors.begin_run("yours", "chat")
    visitors.leave("mine")
    assert mine.is_set() and other_kind.is_set() and not yours.is_set()


def test_stop_reaches_a_run_that_still_waits_for_its_turn(clock: Clock) -> None:
    """Between the click on Send and the model's turn the run has an event already."""
    visitors = registry(clock)
    visitors.begin_run("tab", "chat")
    visitors.stop_run("tab", "chat")
    assert visitors.current_run("tab", "chat").is_set()
    assert not visitors.begin_run("tab", "chat").is_set()


def test_a_new_run_ends_the_one_before(clock: Clock) -> None:
    visitors = registry(clock)
    first = visitors.begin_run("tab", "race")
    second = visitors.begin_run("tab", "race")
    assert first.is_set() and not second.is_set()


def test_files_dropped_while_others_are_read_wait_and_are_stopped_with_them(clock: Clock) -> None:
    visitors = registry(clock)
    first = visitors.join_run("tab", "upload")
    assert visitors.join_run("tab", "upload") is first and not first.is_set()
    visitors.stop_run("tab", "upload")
    assert not visitors.join_run("tab", "upload").is_set()


def test_many_threads_entering_with_one_key_get_one_library(clock: Clock) -> None:
    visitors = registry(clock, max_visitors=64)
    key = new_key()
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(visitors.library(visitors.enter(f"s{n}", key))))
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(set(map(id, found))) == 1


def test_ten_thousand_random_keys_evict_nobody(clock: Clock) -> None:
    """Whoever only knocks owns nothing, so nobody has to go for them."""
    visitors = registry(clock, max_visitors=4)
    honest = visitors.library(visitors.enter("honest", new_key()))
    for number in range(10_000):
        clock.now += 0.01
        visitors.enter(f"session-{number}", f"{number:040d}")
    assert not honest.is_closed
    assert len(visitors) < 300


def test_empty_libraries_count_as_nothing(clock: Clock) -> None:
    """A page that is opened looks into its library; that alone takes no place from anybody."""
    visitors = registry(clock, max_visitors=2)
    mine = visitors.library(visitors.enter("mine", new_key()))
    for number in range(600):
        clock.now += 0.01
        other = visitors.library(visitors.enter(f"session-{number}", new_key()))
        other.is_empty = True  # type: ignore[misc]
    assert not mine.is_closed and len(visitors) < 300


def test_a_running_job_is_activity_however_long_it_takes(clock: Clock) -> None:
    """An upload of hours sends no request; its library must not be closed under it."""
    visitors = registry(clock, idle_s=600.0)
    key, scheduler = new_key(), Scheduler()
    library = visitors.library(visitors.enter("tab", key))
    with scheduler.working(visitors.begin_run("tab", "upload")) as job:
        for _ in range(10):
            clock.now += 601
            visitors.sweep()
        assert not library.is_closed and not job.is_set()
    clock.now += 599
    visitors.sweep()
    assert not library.is_closed
    clock.now += 2
    visitors.sweep()
    assert library.is_closed


def test_libraries_are_freed_while_nobody_comes_or_goes(clock: Clock) -> None:
    visitors = registry(clock, idle_s=600.0)
    library = visitors.library(visitors.enter("tab", new_key()))
    visitors.keep_sweeping(0.01)
    clock.now += 601
    for _ in range(500):
        if library.is_closed:
            break
        time.sleep(0.01)
    assert library.is_closed and len(visitors) == 0
    visitors.close()


def test_a_visitor_that_was_let_go_opens_nothing_and_the_real_one_everything(
    clock: Clock, tmp_path: Path, tiny_model: Any
) -> None:
    """With the library's own lock: a late handler of a closed page once held the folder until the app's restart."""
    visitors = Visitors(lambda folder: Library(tiny_model, folder), tmp_path, clock=clock, idle_s=600.0)
    key = new_key()
    late = visitors.enter("before", key)
    note = tmp_path / "note.txt"
    note.write_text("The river rises in the mountains and reaches the sea.", encoding="utf-8")
    assert visitors.library(late).add([note])[0].state == "ready"
    clock.now += 601
    visitors.sweep()
    with pytest.raises(DocumentError, match="Reload the page"):
        visitors.library(late)
    again = visitors.enter("after", key)
    assert again is not late
    assert [info.name for info in visitors.library(again).documents()] == ["note.txt"]
    visitors.close()


def test_a_run_is_a_job_of_its_visitor(clock: Clock) -> None:
    visitors = registry(clock)
    key = new_key()
    owner = visitors.enter("one", key).owner
    visitors.enter("two", key)
    chat, upload = visitors.begin_run("one", "chat"), visitors.begin_run("two", "upload")
    assert (chat.kind, upload.kind, visitors.begin_run("one", "measure").kind) == ("interactive", "background", "bulk")
    assert chat.owner == upload.owner == owner


def test_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50 and all(len(key) >= 43 for key in keys)
    assert owner_of("s", keys.pop())[1]


def test_a_visitor_of_a_shared_app_begins_only_so_many_questions_within_a_minute(clock: Clock) -> None:
    """One script must not fill every place in the queue; others, and uploads of the same one, go on."""
    visitors = registry(clock, rate=3)
    visitors.enter("tab", "k" * 40)
    visitors.enter("second tab", "k" * 40)
    for session in ("tab", "tab", "second tab"):
        visitors.begin_run(session, "chat")
    with pytest.raises(Busy, match="3 requests within a minute"):
        visitors.begin_run("tab", "documents")
    visitors.begin_run("tab", "upload")
    visitors.enter("other", "o" * 40)
    visitors.begin_run("other", "chat")
    clock.now += 61
    visitors.begin_run("tab", "chat")
