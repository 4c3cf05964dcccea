"""Samples of what a user brings to a search, named in tests as own_search:FUNCTION; and some that break a contract."""

import jax.numpy as jnp
import numpy as np

from fednas_jax.search import brackets
from fednas_jax.search.proposals import Proposer, target_of
from fednas_jax.search.resources import Resource
from fednas_jax.search.stopping import from_rule

# Policies


def within(search, margin=0.2, rounds=4):
    """Drops after every round who is more than a margin below the best."""
    return from_rule(search, lambda seen: seen.scores > jnp.nanmax(seen.scores) - margin, rounds=rounds)


def worst_out(search, rounds=1):
    """Drops the worst after every rung."""
    return brackets.from_rungs(search, lambda candidates: [(rounds, n) for n in range(max(candidates - 1, 1), 0, -1)])


def drops_by_number(search):
    """A record of functions of one's own: keeps the candidate with the lowest number."""
    base = brackets.rungs(search)

    def tell(state, scores):
        told = base.tell(state, scores)
        first = jnp.arange(len(told.alive)) == jnp.argmax(told.alive)
        return told._replace(alive=jnp.where(told.done > 1, told.alive & first, told.alive))

    return base._replace(tell=tell)


def returns_nothing(search):
    return None


def fails_at_once(search):
    return search.nonsense


def has_a_rule_that_fails(search):
    return from_rule(search, lambda seen: seen.scores > seen.nonsense)


def takes_back(search):
    base = brackets.rungs(search)
    return base._replace(tell=lambda s, x: base.tell(s, x)._replace(alive=jnp.ones_like(s.alive)))


def trains_the_dropped(search):
    return brackets.rungs(search)._replace(plan=lambda s: jnp.ones_like(s.alive))


def never_ends(search):
    return brackets.rungs(search)._replace(finished=lambda s: jnp.bool_(False))


def trains_nobody(search):
    return brackets.rungs(search)._replace(plan=lambda s: s.alive & False)


def takes_nan(search):
    base = brackets.rungs(search)
    best = lambda s, score, resource: jnp.argmax(jnp.where(s.alive, s.scores, -jnp.inf))  # noqa: E731
    return base._replace(select=best, tell=lambda s, x: base.tell(s, x)._replace(alive=s.alive))


def takes_the_dead(search):
    return brackets.rungs(search)._replace(select=lambda s, score, resource: jnp.argmin(s.alive))


def takes_nobody(search):
    return brackets.rungs(search)._replace(select=lambda s, score, resource: -1)


def changes_its_form(search):
    base = brackets.rungs(search)
    return base._replace(tell=lambda s, x: base.tell(s, x)._replace(done=jnp.float32(1)))


def has_tables_of_any_form(search):
    return brackets.rungs(search)._replace(
        table=lambda i, k: brackets.table_of(search, i, [(k, search.rungs)], (1, len(search.rungs) + i))
    )


def never_scores(search):
    base = brackets.rungs(search)
    return base._replace(wants_scores=lambda s: jnp.bool_(False))


def plans_too_few(search):
    return brackets.rungs(search)._replace(plan=lambda s: s.alive[:1])


def is_endless(search):
    base = brackets.rungs(search)
    return base._replace(progress=lambda s: base.progress(s)._replace(rounds=10**9))


# Proposals


def two_at_a_time(space, search, goal, most=3):
    """Neighbouring groups shrink together."""

    def propose(widths, iteration, seed):
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        found = []
        for g in range(len(widths) - 1):
            tried = list(widths)
            while not resource(tried) < target and all(tried[n] > space.smallest[n] for n in (g, g + 1)):
                for n in (g, g + 1):
                    tried[n] = max(space.smallest[n], (tried[n] - 1) // space.multiple[n] * space.multiple[n])
            if resource(tried) < target:
                found.append((f"{space.groups[g]} and {space.groups[g + 1]}", np.asarray(tried)))
        return found[:most]

    return Proposer(most, propose)


def always(*candidates, most=2):
    """Proposals that are always these pairs of name and widths."""
    return lambda space, search, goal: Proposer(most, lambda widths, iteration, seed: candidates)


too_wide = always(("a", (14, 8, 16)))
too_narrow = always(("a", (0, 8, 16)))
of_no_multiple = always(("a", (3, 8, 16)))
of_two_groups = always(("a", (2, 8)))
above_the_target = always(("a", (12, 8, 12)))
of_fractions = always(("a", (2.5, 8, 16)))
twice = always(("a", (2, 8, 16)), ("b", (2, 8, 16)))
of_one_name = always(("a", (2, 8, 16)), ("a", (2, 4, 16)))
too_many = always(("a", (2, 8, 16)), ("b", (2, 4, 16)), ("c", (2, 2, 16)))
of_nothing = always(most=0)


# Resources


def flash(space, cost, bits=8):
    """Bytes of the parameters at so many bits."""
    return Resource("flash", "bytes", lambda widths: space.params(widths) * bits / 8)


def channels(widths):
    return widths.sum(-1)


def without_a_unit(space, cost):
    return Resource("x", "", space.params)


def a_number(space, cost):
    return 3


def by_the_first(space, cost):
    return Resource("x", "channels", lambda widths: widths[0])


def negative(space, cost):
    return Resource("x", "channels", lambda widths: 10 - widths.sum(-1))


def constant(space, cost):
    return Resource("x", "channels", lambda widths: np.full(widths.shape[:-1], 7))


def of_the_batch(space, cost):
    return Resource("x", "channels", lambda widths: widths.sum(-1) * widths.size)


def failing(space, cost):
    return Resource("x", "channels", lambda widths: widths["conv1"])


def of_complex(space, cost):
    return Resource("x", "channels", lambda widths: widths.sum(-1) * 1j)


# Methods


def quick():
    """Few groups and rounds; the switches are those of fednas."""
    return {"search.groups": 4, "search.rungs": [[1, 2], [1, 1]], "train.momentum": 0.5}


def of_no_field():
    return {"search.grups": 4}


def of_a_field_without_its_section():
    return {"groups": 4}


def of_itself():
    return {"method": "naive"}


def of_a_text():
    return {"search.groups": "four"}


def a_list():
    return ["search.groups"]
