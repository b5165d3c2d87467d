"""Turns at the model: exclusive, fair between people, urgent work first, and the same numbers as alone."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from grit_app.errors import Busy, Cancelled
from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import BULK_IDLE_S, SLICE_S, Job, Kind, Scheduler

TURN_S = 0.004


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def hold(scheduler: Scheduler, job: Job | None = None) -> tuple[threading.Event, threading.Thread]:
    """A thread that has a turn when this returns, until the event is set."""
    taken, end = threading.Event(), threading.Event()

    def work() -> None:
        with scheduler.turn(job):
            taken.set()
            end.wait(10)

    thread = start(work)
    assert taken.wait(10)
    return end, thread


def busy(scheduler: Scheduler, jobs: list[Job], seconds: float, turn_s: float = TURN_S) -> Counter[Job]:
    """Turns that each job got while all of them always wanted one."""
    turns: Counter[Job] = Counter()
    until = time.monotonic() + seconds

    def work(job: Job) -> None:
        while time.monotonic() < until:
            with scheduler.turn(job):
                time.sleep(turn_s)
            turns[job] += 1

    threads = [start(lambda job=job: work(job)) for job in jobs]  # type: ignore[misc]
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a job waits for ever"
    return turns


@pytest.mark.parametrize("kind", ["background", "bulk"])
def test_who_gave_way_between_layers_goes_on_though_nobody_comes(kind: Kind) -> None:
    """Its turn comes by time: when an answer has been silent for a while. No other job is there to hand it out."""
    scheduler = Scheduler()
    inside, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        with scheduler.turn(Job(kind, "indexing")):
            inside.set()
            until = time.monotonic() + 10
            while time.monotonic() < until and not gave_way.is_set():
                scheduler.breathe()
        goes_on.set()

    gave_way = threading.Event()
    start(work)
    assert inside.wait(10)
    with scheduler.turn(Job("interactive", "somebody")):
        gave_way.set()  # the other waits in `breathe` now
    assert goes_on.wait(5), "it waits for ever"


def test_a_turn_is_exclusive_re_entrant_and_freed_by_an_error() -> None:
    scheduler = Scheduler()
    with scheduler.turn(), scheduler.turn():
        assert not scheduler.is_busy, "one's own use does not count"
    with pytest.raises(ValueError), scheduler:
        raise ValueError
    end, thread = hold(scheduler)
    assert scheduler.is_busy
    end.set()
    thread.join()
    assert not scheduler.is_busy


def test_owners_share_evenly_however_many_jobs_they_have() -> None:
    """Five tabs of one visitor are not five visitors."""
    greedy = [Job("interactive", "greedy") for _ in range(5)]
    modest = Job("interactive", "modest")
    turns = busy(Scheduler(), [*greedy, modest], 1.0)
    share = turns[modest] / sum(turns.values())
    assert 0.4 < share < 0.6, turns


def test_who_computes_long_at_once_gets_no_more_than_who_computes_briefly() -> None:
    scheduler, spent = Scheduler(), Counter[str]()
    until = time.monotonic() + 1.2

    def work(owner: str, layers: int) -> None:
        job = Job("interactive", owner)
        while time.monotonic() < until:
            with scheduler.turn(job):
                for _ in range(layers):
                    time.sleep(0.01)
                    scheduler.breathe()
            spent[owner] += layers

    threads = [start(lambda: work("prompt", 10)), start(lambda: work("tokens", 1))]
    for thread in threads:
        thread.join(20)
    assert 0.5 < spent["tokens"] / spent["prompt"] < 1.6, spent


def test_background_work_gets_a_fifth_while_people_wait() -> None:
    people, index = [Job("interactive", f"visitor {n}") for n in range(3)], Job("background", "uploader")
    turns = busy(Scheduler(), [*people, index], 1.2)
    share = turns[index] / sum(turns.values())
    assert 0.1 < share < 0.3, turns
    assert max(turns[job] for job in people) < 1.5 * min(turns[job] for job in people)


def test_ten_uploads_get_no_more_than_one() -> None:
    uploads = [Job("background", f"uploader {n}") for n in range(10)]
    person = Job("interactive", "visitor")
    turns = busy(Scheduler(), [*uploads, person, Job("interactive", "other")], 1.2)
    assert sum(turns[job] for job in uploads) < 0.35 * sum(turns.values())


@pytest.mark.parametrize("kind", ["interactive", "background"])
def test_bulk_work_runs_only_while_nobody_else_wants_the_model(kind: Kind) -> None:
    scheduler = Scheduler()
    bulk, other = Job("bulk", "benchmark"), Job(kind, "visitor")
    turns = busy(scheduler, [bulk, other], 0.5)
    assert turns[other] > 50 and turns[bulk] <= 2
    with scheduler.turn(other):
        begun = time.monotonic()
    with scheduler.turn(bulk):
        assert time.monotonic() - begun > 0.5 * BULK_IDLE_S


def test_a_bulk_job_knows_that_somebody_computed_in_between() -> None:
    """What was timed meanwhile is no measurement."""
    scheduler, bulk = Scheduler(), Job("bulk", "benchmark")
    for _ in range(3):
        with scheduler.turn(bulk):
            pass
    assert bulk.interruptions == 0
    with scheduler.turn(Job()):
        pass
    with scheduler.turn(bulk):
        pass
    assert bulk.interruptions == 1


def test_two_bulk_jobs_go_one_after_the_other() -> None:
    """Taking turns, each would disturb the other for ever."""
    scheduler, order = Scheduler(), list[str]()

    def work(name: str) -> None:
        job = Job("bulk", name)
        with scheduler.turn(job):
            for _ in range(4):
                time.sleep(SLICE_S)
                scheduler.breathe()
                order.append(name)

    end, thread = hold(scheduler)
    threads = []
    for name in ("first", "second"):
        threads.append(start(lambda name=name: work(name)))  # type: ignore[misc]
        time.sleep(0.05)
    end.set()
    for one in (thread, *threads):
        one.join(10)
    assert order == ["first"] * 4 + ["second"] * 4


def test_a_long_forward_gives_way_between_two_layers_to_whom_its_owner_owes_time() -> None:
    scheduler, waited = Scheduler(), list[float]()
    at_work = threading.Event()

    def prompt() -> None:
        with scheduler.turn(Job("interactive", "long")):
            for _ in range(40):
                at_work.set()
                time.sleep(SLICE_S + 0.005)
                scheduler.breathe()

    thread = start(prompt)
    at_work.wait(10)
    for _ in range(3):
        asked = time.monotonic()
        with scheduler.turn(Job("interactive", "short")):
            waited.append(time.monotonic() - asked)
    assert max(waited) < 0.2, "the long one needs 0.6 s"
    thread.join(10)


def test_who_has_computed_less_is_not_interrupted_by_who_has_more() -> None:
    scheduler = Scheduler()
    job = Job("interactive", "one")
    with scheduler.turn(Job("interactive", "other")):
        time.sleep(0.1)
    with scheduler.turn(job):
        scheduler.breathe()
    assert job.interruptions == 0


def test_stock_forwards_never_overlap_and_the_one_in_the_way_is_finished_first() -> None:
    """The stock forward keeps a flag in the shared configuration; its own other work may go in between."""
    scheduler, inside, seen = Scheduler(), set[str](), list[str]()
    begun = threading.Event()

    def embed(name: str, job: Job, layers: int) -> None:
        with scheduler.turn(job, "stock"):
            assert not inside, "two stock forwards at once"
            inside.add(name)
            for _ in range(layers):
                begun.set()
                time.sleep(SLICE_S + 0.002)
                scheduler.breathe()
            inside.remove(name)
            seen.append(name)

    def write() -> None:
        with scheduler.turn(Job("interactive", "writer")):
            seen.append("token")

    indexing = start(lambda: embed("index", Job("background", "uploader"), 20))
    begun.wait(10)
    token = start(write)
    token.join(10)
    question = start(lambda: embed("question", Job("interactive", "asker"), 1))
    for thread in (indexing, question):
        thread.join(10)
    assert seen == ["token", "index", "question"]


def test_a_job_that_is_stopped_leaves_the_queue() -> None:
    scheduler = Scheduler()
    end, thread = hold(scheduler)
    errors: list[BaseException] = []
    jobs = [Job(kind) for kind in ("interactive", "background", "bulk")]

    def wait(job: Job) -> None:
        try:
            with scheduler.turn(job):
                raise AssertionError("it was stopped before")
        except Cancelled as error:
            errors.append(error)

    waiting = [start(lambda job=job: wait(job)) for job in jobs]  # type: ignore[misc]
    time.sleep(0.05)
    for job in jobs:
        job.set()
    for one in waiting:
        one.join(0.5)
        assert not one.is_alive()
    assert len(errors) == 3
    end.set()
    thread.join()
    with scheduler.turn():
        pass


def test_calls_without_a_job_count_as_the_thread_s_own() -> None:
    scheduler, job = Scheduler(), Job("background", "uploader")
    with job.applies(), scheduler.turn():
        assert job.has_computed
    other = Job("interactive", "visitor")

    def items() -> object:
        for _ in range(2):
            with scheduler.turn(threading.Event()):
                yield

    assert len(list(other.steps(items()))) == 2  # type: ignore[arg-type]
    assert other.has_computed


def test_a_place_counts_those_before_and_estimates_from_measured_speeds() -> None:
    scheduler = Scheduler()
    with scheduler.turn(Job(), tokens=100):
        time.sleep(0.1)
    mine, other = Job("interactive", "me"), Job("interactive", "you")
    with scheduler.turn(mine, tokens=200):
        pass
    with scheduler.working(mine):
        assert scheduler.place(mine).before == 0 and scheduler.place(mine).words() == ""
        with scheduler.working(other), scheduler.working(Job("bulk", "benchmark")):
            place = scheduler.place(mine)
            assert place.before == 1
            assert 0.2 < place.seconds < 1.0, "two people, each 200 tokens at 1,000 a second"
            assert place.words() == "1 before you, about 1 s" or place.seconds < 0.5
    assert scheduler.place(mine).before == 0


def test_more_jobs_than_the_limit_are_refused_with_a_sentence() -> None:
    scheduler = Scheduler()
    scheduler.limit = 1
    job = Job()
    with (
        scheduler.working(job),
        scheduler.working(job),
        pytest.raises(Busy, match="under way already"),
        scheduler.working(Job()),
    ):
        pass
    with scheduler.working(Job()):
        pass


def test_a_storm_of_jobs_ends() -> None:
    """No turn is lost and none is given twice, whatever is stopped, broken off or nested."""
    scheduler, inside, done = Scheduler(), list[int](), Counter[str]()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(40):
            kind: Kind = dice.choice(["interactive", "interactive", "background"])
            job = Job(kind, f"owner {dice.randrange(6)}")
            if dice.random() < 0.2:
                threading.Timer(dice.random() * 0.02, job.set).start()
            try:
                with scheduler.turn(job, dice.choice(["own", "stock"])):
                    inside.append(seed)
                    assert inside == [seed], "two turns at once"
                    inside.clear()
                    time.sleep(dice.random() * 0.002)
                    with scheduler.turn(job):
                        scheduler.breathe()
                    scheduler.breathe()
                done["turns"] += 1
            except Cancelled:
                done["stopped"] += 1

    threads = [start(lambda seed=seed: work(seed)) for seed in range(12)]  # type: ignore[misc]
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "deadlock"
    assert sum(done.values()) == 12 * 40
    assert done["turns"] > 300
    assert not scheduler.is_busy


def test_answers_and_vectors_are_the_same_as_alone(tiny_model: GritLM) -> None:
    """Waiting, and being broken off between two layers, changes no number."""
    chats = [
        [{"role": "user", "content": f"Tell me about {word} " * 20}] for word in ("rivers", "bees", "honey", "wax")
    ]
    texts = [f"text {i} " * (5 + i) for i in range(8)]
    alone = [tiny_model.generate(chat, max_new_tokens=12) for chat in chats]
    vectors = tiny_model.encode(texts, batch_size=1)
    assert len(set(alone)) > 1
    found: dict[int, str] = {}
    embedded: list[np.ndarray] = []
    scheduler = tiny_model.scheduler
    breathe, broken = scheduler.breathe, list[int]()

    def chat(number: int) -> None:
        job = Job("interactive", f"visitor {number}")
        stream = tiny_model.stream(chats[number], max_new_tokens=12, cancel=job)
        found[number] = stream.read_all()
        broken.append(job.interruptions)

    def index() -> None:
        embedded.append(tiny_model.encode(texts, batch_size=1, cancel=Job("background", "uploader")))

    threads = [start(lambda n=n: chat(n)) for n in range(4)] + [start(index)]  # type: ignore[misc]
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(4)] == alone
    assert np.array_equal(embedded[0], vectors)
    assert sum(broken) > 10, "nothing was interleaved, so nothing was shown"
    assert scheduler.breathe == breathe


def test_a_chat_begins_while_a_document_is_embedded(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token waits for a layer of somebody's indexing, not for a batch, and not for all batches."""
    layers = tiny_model.hf_model.get_decoder().layers  # type: ignore[operator]
    slow = [layer.register_forward_hook(lambda *_: time.sleep(0.1)) for layer in layers]  # of the stock forward alone
    at_work, end = threading.Event(), Job("background", "uploader")

    def index() -> None:
        with contextlib.suppress(Cancelled):
            tiny_model.encode(
                [f"text {i} " * 30 for i in range(40)], batch_size=1, progress=lambda *_: at_work.set(), cancel=end
            )

    try:
        thread = start(index)
        assert at_work.wait(20)
        waits = []
        for number in range(5):
            asked = time.monotonic()
            stream = tiny_model.stream(
                [{"role": "user", "content": f"Hello {number}"}], max_new_tokens=2, cancel=Job("interactive", "guest")
            )
            stream.read_all()
            assert stream.stats.new_tokens > 0
            waits.append(stream.stats.ttft_ms / 1e3)
            time.sleep(0.02)
        assert thread.is_alive(), "the document was done before the chat"
        assert sorted(waits)[2] < 0.19 and time.monotonic() - asked < 5, waits
        end.set()
        thread.join(10)
    finally:
        for hook in slow:
            hook.remove()
