"""Sweep files: what they may say, and every mistake in them as one line."""

import pytest

from fednas_jax.config.presets import preset
from fednas_jax.errors import ConfigError
from fednas_jax.sweep import sources
from fednas_jax.sweep.designs import grid, sampled, zipped

TOML = """
preset = "digits"
[fields]
pretrain.rounds = 3
"finetune.rounds" = 1

[[trials]]
grid = { method = ["fednas", "naive"], seed = [0, 1] }

[[trials]]
zip.train.learning_rate = [0.1, 0.2]
zip.train.batch_size = [10, 20]
list = [{ seed = 7 }]

[[trials]]
random.data.alpha = { low = 0.1, high = 10, log = true }
count = 3
draw_seed = 5
"""


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_toml_says_what_the_functions_say(tmp_path):
    source = sources.read(written(tmp_path, "s.toml", TOML))
    always = {"pretrain.rounds": 3, "finetune.rounds": 1}
    pairs = zipped({"train.learning_rate": [0.1, 0.2], "train.batch_size": [10, 20]})
    drawn = sampled({"data.alpha": {"low": 0.1, "high": 10, "log": True}}, 3, seed=5)
    trials = [*grid({"method": ["fednas", "naive"], "seed": [0, 1]}), *(p | {"seed": 7} for p in pairs), *drawn]
    assert source == ("digits", [always | trial for trial in trials])


def test_python_may_have_a_list_a_function_or_a_generator(tmp_path):
    head = "import fednas_jax as fn\nbase = fn.preset('digits')\n"
    for n, code in enumerate(
        (
            "trials = fn.grid({'seed': [0, 1]})",
            "def trials():\n    return fn.grid({'seed': [0, 1]})",
            "trials = ({'seed': n} for n in range(2))",
        )
    ):
        source = sources.read(written(tmp_path, f"s{n}.py", head + code))
        assert source == (preset("digits"), [{"seed": 0}, {"seed": 1}])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.yaml", "", "want a .toml or .py file"),
        ("s.toml", "[[trials]", "cannot be read as TOML"),
        ("s.toml", "", "trials: got [], want blocks [[trials]]"),
        ("s.toml", "trials = 3", "trials: got 3, want blocks"),
        ("s.toml", "base = 'digits'\n[[trials]]\ngrid = {seed = [1]}", "'base': no such part of a sweep"),
        ("s.toml", "fields = 3\n[[trials]]\ngrid = {seed = [1]}", "fields: got 3"),
        ("s.toml", "[[trials]]\ngird = {seed = [1]}", "trials[0]: 'gird': no such design"),
        ("s.toml", "[[trials]]\ngrid = {seed = []}", "trials[0]: grid: seed: got no values"),
        ("s.toml", "[[trials]]\ngrid = [1]", "trials[0]: grid: got [1]"),
        ("s.toml", "[[trials]]\nlist = 1", "trials[0]: list: got 1"),
        ("s.toml", "[[trials]]\nlist = [1]", "trials[0]: list: got 1"),
        ("s.toml", "[[trials]]\nlist = []", "crossed: got 0 trials"),
        ("s.toml", "[[trials]]\nsobol = {seed = [1]}", "trials[0]: sobol: count: got none"),
        ("s.toml", "[[trials]]\ncount = 3", "trials[0]: got no design"),
        ("s.toml", "[[trials]]\ngrid = {seed = [1]}\ncount = 3", "count: got 3, want it with random or sobol only"),
        ("s.toml", "[[trials]]\nlist = [{}]\ndraw_seed = 3", "draw_seed: got 3, want it with random or sobol only"),
        ("s.toml", "a = " + "[" * 5000, "cannot be read as TOML"),
        ("s.py", "trials = [", "SyntaxError"),
        ("s.py", "x = 3", "trials: got none"),
        ("s.py", "1 / 0", "ZeroDivisionError: division by zero (s.py, line 1)"),
        ("s.py", "import nothing_like_it", "ModuleNotFoundError"),
        ("s.py", "raise SystemExit(3)", "SystemExit: 3"),
        ("s.py", "\ndef trials():\n    return [][0]", "trials(): IndexError: list index out of range (s.py, line 3)"),
        ("s.py", "trials = (1 // n for n in range(2))", "ZeroDivisionError"),
        ("s.py", "import fednas_jax as fn\ntrials = fn.grid({'seed': []})", "grid: seed: got no values"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, name, text, said):
    with pytest.raises(ConfigError) as error:
        sources.read(written(tmp_path, name, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_file_is_one_line(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path / "none.py"):
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            sources.read(path)
    (tmp_path / "d.py").mkdir()
    with pytest.raises(ConfigError, match="no plain file"):
        sources.read(tmp_path / "d.py")
