"""Rounds played by hand, and what holds for any round: nobody works twice at once, and who is late works in vain."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.checks import validate
from fednas_jax.config.schema import Config, ParticipationConfig
from fednas_jax.errors import ConfigError
from fednas_jax.phones import availability, race

STAY = np.full(9, np.inf)


def play(candidate, client, seconds, leaves=STAY, steps=None, gone=STAY, wanted=(0, 0, 0), **fields):
    """Seconds: [T, 3] of download, training and upload."""
    seconds = np.asarray(seconds, np.float64)
    steps = np.full(len(client), 10) if steps is None else np.asarray(steps)
    config = ParticipationConfig(**fields)
    tasks = (np.asarray(candidate), np.asarray(client), steps, seconds)
    return race.outcome(config, *tasks, leaves, gone, np.asarray(wanted))


def test_a_round_in_which_all_take_part_lasts_as_long_as_the_slowest_phone():
    # Client 1 does two candidates, one after the other: 3 + 4 = 7 seconds; the others 6 and 1.
    found = play([0, 0, 1, 1], [0, 1, 1, 2], [(1, 4, 1), (1, 1, 1), (1, 2, 1), (0, 1, 0)])
    assert found.seconds == 7
    assert found.used.all()
    assert not found.cut.any()
    assert (found.done == 1).all()


def test_who_is_late_is_charged_until_the_deadline_and_not_used():
    found = play([0, 0, 0], [0, 1, 2], [(1, 4, 1), (2, 6, 2), (6, 1, 1)], deadline_seconds=6)
    assert found.used.tolist() == [True, False, False]  # on time to the second
    np.testing.assert_allclose(found.done, [(1, 1, 1), (1, 4 / 6, 0), (1, 0, 0)])
    assert found.seconds == 6


def test_without_anybody_late_the_deadline_is_not_waited_for():
    assert play([0, 0], [0, 1], [(1, 1, 1), (1, 2, 1)], deadline_seconds=60).seconds == 4


def test_overcommitment_takes_the_first_and_sends_the_others_to_their_next_candidate():
    # Three are invited for candidate 0 and two are wanted: clients 0 and 1 end at 3 and 5, client 2 is stopped at 5 in
    # its training, 4 of 8 seconds of which are done; its second task, candidate 1 alone, begins at 5 and ends at 8.
    found = play([0, 0, 0, 1], [0, 1, 2, 2], [(1, 1, 1), (1, 3, 1), (1, 8, 1), (1, 1, 1)], overcommit=1.5)
    assert found.used.tolist() == [True, True, False, True]
    np.testing.assert_allclose(found.done[2], (1, 0.5, 0))
    assert found.seconds == 8


def test_where_fewer_are_there_than_would_be_invited_those_wanted_are_taken_all_the_same():
    # Of candidate 0 three updates are wanted: five would be invited, four are there. Of candidate 1 two, and one is.
    found = play([0, 0, 0, 0, 1], [0, 1, 2, 3, 4], [(1, n, 1) for n in range(5)], wanted=(3, 2, 0), overcommit=1.5)
    assert found.used.tolist() == [True, True, True, False, True]


def test_a_client_that_leaves_has_downloaded_and_done_whole_steps_and_does_not_come_back():
    leaves = STAY.copy()
    leaves[0] = 0.75  # of the 20 steps of its three tasks: after 15, the first task's 8 and 7 of the second's
    found = play([0, 1, 2, 0], [0, 0, 0, 1], [(1, 8, 1), (1, 10, 1), (1, 2, 1), (1, 1, 1)], leaves, [8, 10, 2, 4])
    assert found.used.tolist() == [True, False, False, True]
    np.testing.assert_allclose(found.done, [(1, 1, 1), (1, 0.7, 0), (0, 0, 0), (1, 1, 1)])
    assert not found.cut.any()
    assert found.seconds == 10  # when the last update that is used is there


def test_who_goes_away_stops_there_and_does_not_come_back():
    gone = STAY.copy()
    gone[0], gone[1] = 6, 3  # client 0 after 2 of 4 seconds of its second task's training; client 1 when it has sent
    tasks = [(0, 0, (1, 1, 1)), (1, 0, (1, 4, 1)), (2, 0, (1, 1, 1)), (0, 1, (1, 1, 1)), (1, 1, (1, 1, 1))]
    found = play(*zip(*tasks, strict=True), gone=gone)
    assert found.used.tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(found.done, [(1, 1, 1), (1, 0.5, 0), (0, 0, 0), (1, 1, 1), (0, 0, 0)])
    assert found.seconds == 3  # nobody waits for the others


def test_where_clients_come_and_go_nobody_works_on_when_the_round_is_over():
    gone = STAY.copy()
    gone[1] = 9  # it would have trained until then, but the round is over after 6 seconds
    found = play([0, 0], [0, 1], [(1, 4, 1), (2, 8, 1)], gone=gone, availability="intervals")
    np.testing.assert_allclose(found.done, [(1, 1, 1), (1, 0.5, 0)])
    assert found.cut.tolist() == [False, True]
    assert found.seconds == 6


def test_a_comparison_is_paired_or_each_score_counts_alone():
    gone = STAY.copy()
    gone[1] = 5
    tasks = [(0, 0, (1, 2)), (1, 0, (1, 2)), (0, 1, (1, 2)), (1, 1, (1, 2))]
    candidate, client, seconds = (np.asarray(column) for column in zip(*tasks, strict=True))
    seconds = seconds.astype(float)
    alone, paired = (race.scored(candidate, client, seconds, gone, paired) for paired in (False, True))
    assert alone.used.tolist() == [True, True, True, False]
    assert paired.used.tolist() == [True, True, False, False]
    for found in (alone, paired):
        np.testing.assert_allclose(found.done, [(1, 1), (1, 1), (1, 1), (1, 0.5)])
        assert found.cut.tolist() == [False, False, False, True]


rounds = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 8), st.tuples(*[st.floats(0.01, 9)] * 3), st.integers(1, 5)),
    min_size=1,
    max_size=14,
    unique_by=lambda task: task[:2],
)
leavers = st.lists(st.one_of(st.just(np.inf), st.floats(0, 0.99)), min_size=9, max_size=9).map(np.asarray)


goers = st.lists(st.one_of(st.just(np.inf), st.floats(0.01, 40)), min_size=9, max_size=9).map(np.asarray)


@given(rounds, leavers, goers, st.floats(1, 3), st.one_of(st.none(), st.floats(0.1, 30)))
def test_any_round_keeps_the_order_of_phases_the_places_and_the_clock(tasks, leaves, gone, overcommit, deadline):
    candidate, client, seconds, steps = (np.asarray(column) for column in zip(*sorted(tasks), strict=True))
    found = play(candidate, client, seconds, leaves, steps, gone, overcommit=overcommit, deadline_seconds=deadline)
    done = found.done
    assert ((done >= 0) & (done <= 1 + 1e-9)).all()
    assert (done[found.used] == 1).all()
    assert not (found.used & found.cut).any()
    for earlier in (0, 1):  # a phase begins when the one before it is done
        assert (done[done[:, earlier + 1] > 1e-9, earlier] > 1 - 1e-9).all()
    busy = np.bincount(client, (done * seconds).sum(1), len(gone))
    assert (busy <= gone * (1 + 1e-9)).all()  # nobody works while it is away
    if deadline is not None:
        assert busy.max() <= deadline * (1 + 1e-9)
    for k in np.unique(candidate):
        assert found.used[candidate == k].sum() <= max(1, np.floor((candidate == k).sum() / overcommit + 1e-9))
    whole = play(candidate, client, seconds, leaves, steps)
    assert busy.sum() <= (whole.done * seconds).sum() * (1 + 1e-9)  # stopping saves work


@given(rounds, st.floats(0.1, 1))
def test_faster_phones_and_fewer_clients_never_make_a_round_longer(tasks, factor):
    candidate, client, seconds, steps = (np.asarray(column) for column in zip(*sorted(tasks), strict=True))
    slow = play(candidate, client, seconds, steps=steps)
    assert play(candidate, client, seconds * factor, steps=steps).seconds <= slow.seconds * (1 + 1e-12)
    fewer = client != client[0]
    some = play(candidate[fewer], client[fewer], seconds[fewer], steps=steps[fewer])
    assert some.seconds <= slow.seconds


def present(clients=2000, moment=(1, 1, 1), clock=0.0, seed=0, **fields):
    now = availability.presence(ParticipationConfig(**fields), clients, seed)
    return availability.there(now, moment, clock)


def test_by_default_everybody_is_there_and_stays():
    found, waited = present()
    assert found.all()
    assert waited == 0
    now = availability.presence(ParticipationConfig(), 5, 0)
    assert np.isinf(availability.leaving(now, (1, 1, 1))).all()
    assert ParticipationConfig().everybody


def test_coins_are_tossed_anew_in_every_round_and_alike_for_one_seed():
    first, _ = present(availability="bernoulli", available=0.3)
    assert first.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(first, present(availability="bernoulli", available=0.3)[0])
    assert (first != present(availability="bernoulli", available=0.3, moment=(1, 1, 2))[0]).any()
    assert (first != present(availability="bernoulli", available=0.3, seed=1)[0]).any()


def test_who_is_there_now_is_likely_there_in_a_minute_and_few_are_at_any_time():
    """Measured phones are ready a few per cent of the time, half of them less than 6 %, minutes at a stretch."""
    fields = {"availability": "intervals", "clients": 2000}
    now, soon = present(**fields)[0], present(**fields, clock=30.0)[0]
    assert (now & soon).sum() > 0.5 * now.sum()
    np.testing.assert_array_equal(now, present(**fields)[0])
    spells = availability.presence(ParticipationConfig(availability="intervals"), 2000, 0)
    share = np.bincount(spells.client, spells.end - spells.start) / spells.cycle
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75, 0.9]), [0.013, 0.055, 0.131, 0.255], atol=0.015)
    assert now.mean() == pytest.approx(share.mean(), abs=0.03)


def test_a_trace_is_followed_and_repeats_and_the_server_waits_for_somebody(tmp_path):
    (tmp_path / "trace.csv").write_text("client,from [s],to [s]\n1,100,200\n0,150,300\n1,250,400\n")
    fields = {"availability": "trace", "trace": tmp_path / "trace.csv", "clients": 3}

    def at(clock):
        found, waited = present(**fields, clock=clock)
        return np.flatnonzero(found).tolist(), waited

    assert at(120.0) == ([1], 0)
    assert at(160.0) == ([0, 1], 0)
    assert at(210.0) == ([0], 0)
    assert at(660.0) == ([0, 1], 0)  # 400 + 260
    assert at(0.0) == ([1], 120)  # it looks again every 60 seconds


def test_clients_stay_to_the_end_of_their_spell_and_over_the_end_of_the_trace(tmp_path):
    lines = ["client,from [s],to [s]", "0,0,50", "0,350,400", "1,100,150", "1,150,180", "1,120,200", "2,0,400"]
    (tmp_path / "trace.csv").write_text("\n".join(lines))
    now = availability.presence(ParticipationConfig(availability="trace", trace=tmp_path / "trace.csv"), 4, 0)
    for clock, want in [
        (0.0, [50, 0, np.inf, 0]),
        (110.0, [0, 90, np.inf, 0]),  # spells that touch or overlap are one
        (370.0, [80, 0, np.inf, 0]),  # 30 seconds to the end, and the first 50 of the next time round
        (1310.0, [0, 90, np.inf, 0]),
    ]:
        found = availability.stays(now, clock)
        assert found.tolist() == want
        np.testing.assert_array_equal(found > 0, availability.there(now, (1, 1, 1), clock)[0])
    always = availability.presence(ParticipationConfig(availability="bernoulli", available=0.5), 3, 0)
    assert np.isinf(availability.stays(always, 7.0)).all()


def test_rounding_leaves_nobody_there_for_an_instant(tmp_path):
    """Rounds that end when the last client goes: the clock is a sum of remainders, and must get on."""
    (tmp_path / "trace.csv").write_text("client,from [s],to [s]\n0,0,50.3\n1,100,150.9\n2,230.7,231.3\n")
    now = availability.presence(ParticipationConfig(availability="trace", trace=tmp_path / "trace.csv"), 3, 0)
    clock, departures = 0.0, 0
    while clock < 1e6:
        here, waited = availability.there(now, (1, 1, 1), clock)
        left = availability.stays(now, clock + waited)
        assert left[here].min() >= availability.INSTANT
        clock, departures = clock + waited + left.max(), departures + 1
    assert departures > 1000


@given(st.integers(0, 9), st.floats(0, 1e7))
def test_who_is_there_stays_and_is_gone_right_after(seed, clock):
    now = availability.presence(ParticipationConfig(availability="intervals"), 200, seed)
    left = availability.stays(now, clock)
    later, _ = availability.there(now, (1, 1, 1), clock + left.max() / 2)
    assert later[left.argmax()]
    here, waited = availability.there(now, (1, 1, 1), clock)
    if not waited:
        np.testing.assert_array_equal(here, left > 0)
    for client in np.flatnonzero(here & (left > 0))[:3]:
        assert availability.stays(now, clock + left[client] + 1e-3)[client] == 0


def test_of_each_group_those_are_invited_who_are_there_and_some_too_many():
    now = availability.presence(ParticipationConfig(overcommit=1.5), 12, 0)
    group = np.repeat([0, 1, 2], 4)
    here = np.asarray([True] * 8 + [True, False, False, False])
    chosen = availability.invited(now, (1, 1, 1), here, group, 2)
    assert np.bincount(group[chosen], minlength=3).tolist() == [3, 3, 1]
    assert not (chosen & ~here).any()
    np.testing.assert_array_equal(availability.invited(now, (1, 1, 1), here, group, 0), here)


def test_leavers_are_as_many_as_asked():
    now = availability.presence(ParticipationConfig(dropout=0.2), 5000, 0)
    leaves = availability.leaving(now, (1, 1, 1))
    assert np.isfinite(leaves).mean() == pytest.approx(0.2, abs=0.02)
    assert leaves[np.isfinite(leaves)].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overcommit": 0.9}, r"participation\.overcommit: got 0\.9, want at least 1"),
        ({"deadline_seconds": 0.0}, r"participation\.deadline_seconds: got 0\.0, want above 0"),
        ({"dropout": 1.0}, r"participation\.dropout: got 1\.0, want at least 0 and below 1"),
        ({"available": 0.0}, r"participation\.available: got 0\.0, want above 0 and at most 1"),
        ({"availability": "trace"}, r"participation\.trace: got none, want the file of the trace"),
        ({"ready_seconds": (9.0, 3.0)}, r"participation\.ready_seconds: got 9\.0, 3\.0, want a median above 0 and"),
    ],
)
def test_rounds_that_cannot_be_are_refused_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message):
        validate(dataclasses.replace(Config(), participation=ParticipationConfig(**fields)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,from,to\n0,1,2\n", r"got client, from, to, want the columns client, from \[s\], to \[s\]"),
        ("client,from [s],to [s]\n5,1,2\n", r"got client 5, want 0 to 2"),
        ("client,from [s],to [s]\n1,3,2\n", r"got an interval that is empty or begins before 0"),
        ("client,from [s],to [s]\n1,x,2\n", r"cannot be read: could not convert"),
        ("client,from [s],to [s]\n0.7,1,2\n", r"got client 0\.7, want 0 to 2"),
        ("client,from [s],to [s]\n" + "0" * 200_000 + ",1,2\n", r"cannot be read: field larger than"),
        ("client,from [s],to [s],to [s]\n0,1,2,3\n", r"got the column 'to \[s\]' twice, want it once"),
        ("\xff\n", r"cannot be read: .*codec can't decode"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "trace.csv").write_text(text, "latin-1")
    with pytest.raises(ConfigError, match=message) as caught:
        present(3, availability="trace", trace=tmp_path / "trace.csv")
    assert str(caught.value).startswith("participation.trace: ")
