"""`fednas data show`: what a data set holds, how it would be divided, and the picture of it."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

import fednas_jax as fn
from fednas_jax import data
from fednas_jax.cli.app import main
from fednas_jax.config.schema import DataConfig
from fednas_jax.report.data_view import picture

SYNTHETIC = ["data", "show", "synthetic", "--data.synthetic-examples", "120", "--data.synthetic-classes", "3"]


def rows(text):
    """The two-column lines of the tables that are printed."""
    cells = [line.strip().split("  ") for line in text.splitlines()]
    return {cell[0]: cell[-1].strip() for cell in cells if len(cell) > 1}


def test_a_data_set_is_told_by_classes_counts_shape_and_statistics(capsys):
    assert main([*SYNTHETIC, "--data.clients", "6"]) == 0
    out = capsys.readouterr().out
    said, dataset = rows(out), data.load(DataConfig(source="synthetic", synthetic_examples=120, synthetic_classes=3), 0)
    assert (said["training examples"], said["test examples"], said["classes"]) == ("120", "30", "3")
    assert said["inputs"] == "images of 8x8x1"
    assert said["training examples of a class"] == "min 40, median 40, max 40"
    assert said["mean of pixels, 0 to 1"] == f"{dataset.mean[0]:.4f}"
    assert said["standard deviation"] == f"{dataset.std[0]:.4f}"
    assert [line.split() for line in out.splitlines() if line.strip().startswith("2 ")] == [["2", "40", "10"]]
    assert "label distance" not in out


def test_clients_are_told_as_a_search_with_these_options_would_have_them(capsys, tmp_path):
    options = ["--seed", "7", "--data.partition", "classes", "--data.classes-per-client", "1", "--data.clients", "6"]
    picture_file = tmp_path / "clients.svg"
    skewed = ["--data.rotation-degrees", "10"]
    assert main([*SYNTHETIC, "--clients", "--out", str(picture_file), *options, *skewed]) == 0
    out = capsys.readouterr().out
    said = rows(out)
    assert (said["clients"], said["examples that they hold"]) == ("6", "120")
    assert said["examples of a client"] == "min 20, median 20, max 20"
    assert said["labels of a client"] == "min 1, median 1, max 1"
    assert said["label distance, 0 (alike) to 1"] == f"{2 / 3:.3f}"
    assert said["Gini coefficient of sizes, 0 (equal) to 1"] == "0.000"
    degrees = data.feature_skew(DataConfig(rotation_degrees=10), 6, 7).degrees
    assert said["rotation of a client's images, degrees"].startswith(f"min {degrees.min():.1f}, ")
    assert "brightness" not in out
    assert picture_file.read_text().startswith("<?xml")
    assert f"picture: {picture_file}" in out


def test_classes_are_told_by_their_names(capsys, tmp_path):
    images = np.zeros((20, 4, 4), np.uint8)
    made = fn.from_arrays(images, np.arange(20) % 2 * 10 + 2, labels="remap")
    with data.ColumnsWriter(tmp_path / "columns", "made", class_names=made.class_names) as writer:
        writer.add(made.train)
        writer.add_test(made.test)
        writer.finish()
    assert main(["data", "show", "columns", "--data.folder", str(tmp_path / "columns")]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "2", "9", "1"] in listed
    assert ["1", "12", "9", "1"] in listed


def test_a_preset_is_shown_with_its_own_division(capsys):
    assert main(["data", "show", "digits", "--clients"]) == 0
    out = capsys.readouterr().out
    assert "Clients: dirichlet, seed 0" in out
    assert rows(out)["clients"] == "40"


@pytest.mark.parametrize("name", ["clients.svg", "clients.png"])
def test_the_same_division_draws_the_same_file(tmp_path, name):
    files = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / name)
        assert main(["data", "show", "digits", "--clients", "--out", str(files[-1])]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_picture_shows_every_share_and_size_from_large_to_small():
    labels = np.array([2, 0, 0, 1, 1, 1, 2, 2])
    figure = picture(labels, np.array([0, 1, 3, 8]), 3, "made")
    mixes, bars = figure.axes[0], figure.axes[1]
    np.testing.assert_allclose(mixes.images[0].get_array(), [[0, 1, 0], [0.6, 0, 0], [0.4, 0, 1]])
    assert bars.patches[0].get_data().values.tolist() == [5, 2, 1]
    assert mixes.get_title().startswith("made\nlabel distance 0.")
    plt.close(figure)


def test_a_picture_of_texts_shows_shares_of_the_labels_that_positions_have():
    labels = np.array([[0, 0, 1], [0, 1, -1], [2, -1, -1]])
    figure = picture(labels, np.array([0, 2, 3]), 3, "made")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.6, 0], [0.4, 0], [0, 1]])
    assert figure.axes[2].get_ylabel() == "share of a client's labels"
    plt.close(figure)


def test_a_skew_of_images_is_refused_where_there_are_none_as_a_search_does(capsys):
    shown = ["data", "show", "synthetic_texts", "--clients", "--data.brightness-sigma", "0.5"]
    assert main(shown) == 2
    assert capsys.readouterr().err.startswith("fednas: data.brightness_sigma: got 0.5, want 0: the data holds texts of")


def test_a_picture_of_very_many_clients_shows_them_evenly_over_their_ranks():
    sizes = np.arange(1, 3001)
    figure = picture(np.zeros(sizes.sum(), int), np.append(0, np.cumsum(sizes)), 2, "made")
    drawn = figure.axes[1].patches[0].get_data()
    assert len(drawn.values) == 1000
    assert (drawn.values[0], drawn.values[-1], drawn.edges[-1]) == (3000, 1, 3000)
    assert figure.axes[1].get_xlabel() == "3,000 clients, from large to small"
    plt.close(figure)
