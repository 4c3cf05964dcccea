"""Trials go to free workers; those of dead ones come back, twice at most; asked to stop, no other begins."""

from stub_trials import StubPool

from fednas_jax.sweep import here
from fednas_jax.sweep.scheduling import Job, Outcome, run_all


def jobs(path, *seeds):
    return [(Job(f"t{seed}", str(path / f"t{seed}"), lambda seed=seed: {"seed": seed}),) for seed in seeds]


def ran(pool, jobs, **more):
    ended = []
    stopped = run_all(jobs, pool, lambda job, outcome: ended.append((job.name, outcome.kind)), **more)
    return ended, stopped


def test_every_job_ends_once_whatever_the_number_of_workers(tmp_path):
    for number in (1, 3, 9):
        ended, stopped = ran(StubPool(number=number), jobs(tmp_path / str(number), *range(7)))
        assert sorted(ended) == [(f"t{n}", "finished") for n in range(7)]
        assert not stopped


def test_a_trial_whose_worker_died_is_tried_again_after_the_others(tmp_path):
    lost = Outcome("lost", "killed")
    pool = StubPool(lambda values, tries: lost if values["seed"] == 0 and tries <= 2 else None)
    ended, _ = ran(pool, jobs(tmp_path, 0, 1))
    assert pool.tried == ["t0", "t1", "t0", "t0"]
    assert ended == [("t1", "finished"), ("t0", "finished")]


def test_it_is_given_up_when_its_third_worker_died(tmp_path):
    pool = StubPool(lambda values, tries: Outcome("lost", "killed"))
    ended, _ = ran(pool, jobs(tmp_path, 0))
    assert pool.tried == ["t0"] * 3
    assert ended == [("t0", "lost")]


def test_asked_to_stop_no_other_trial_begins(tmp_path):
    asked = iter([False, True])
    pool = StubPool(lambda values, tries: Outcome("lost", "killed"))
    ended, stopped = ran(pool, jobs(tmp_path, 0, 1, 2), should_stop=lambda: next(asked))
    assert pool.tried == ["t0"]
    assert stopped
    assert ended == []


def test_jobs_are_taken_when_a_worker_is_free(tmp_path):
    taken = []
    given = (taken.append(n) or job for n, job in enumerate(jobs(tmp_path, 0, 1, 2)))
    run_all(given, StubPool(), lambda job, outcome: taken.append(job.name))
    assert taken == [0, "t0", 1, "t1", 2, "t2"]


class PackPool:
    """Its worker ends a pack's first trial, then dies; lone trials finish."""

    number = 1

    def begin(self, worker, pack):
        self.names = [job.name for job in pack]
        self.begun = [*getattr(self, "begun", []), self.names]

    def wait(self, seconds):
        first, *rest = self.names
        ended = [(0, Outcome("finished", trial=first))]
        return [*ended, (0, Outcome("lost", "killed"))] if rest else ended


def test_where_a_pack_loses_its_worker_its_rest_goes_on_in_halves(tmp_path):
    pool = PackPool()
    pack = tuple(job for (job,) in jobs(tmp_path, *range(6)))
    ended, _ = ran(pool, [pack])
    assert pool.begun == [
        ["t0", "t1", "t2", "t3", "t4", "t5"],
        ["t1", "t2"],
        ["t3", "t4", "t5"],
        ["t2"],
        ["t4"],
        ["t5"],
    ]
    assert sorted(ended) == [(f"t{n}", "finished") for n in range(6)]


class DyingIdle(StubPool):
    """A worker that has nothing to do any more dies while another works."""

    def __init__(self):
        super().__init__(number=2)
        self.died = False

    def wait(self, seconds):
        ended = super().wait(seconds)
        if len(ended) == 2:  # the first ends at once, the second later
            self.later = ended[1:]
            return ended[:1]
        if not self.died:
            self.died = True
            return [(0, Outcome("lost", "killed"))]
        return self.later


def test_a_worker_that_dies_with_nothing_to_do_loses_nothing(tmp_path):
    assert ran(DyingIdle(), jobs(tmp_path, 0, 1)) == ([("t0", "finished"), ("t1", "finished")], False)


def test_a_pack_in_this_process_tells_of_each_trial_when_it_ends(monkeypatch):
    """The table follows each trial, instead of waiting for the last of its pack."""
    ended, seen = [], []

    def run_trials(trials, should_stop):
        for trial in trials:
            yield Outcome("finished", trial=trial.name)
            seen.append(list(ended))

    monkeypatch.setattr(here, "run_trials", run_trials)
    pool = here.Here(lambda: False)
    try:
        assert not run_all([tuple(Job(name, "", dict) for name in "ab")], pool, lambda job, _: ended.append(job.name))
    finally:
        pool.close()
    assert seen == [["a"], ["a", "b"]]
