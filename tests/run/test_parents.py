"""Parents from files: whose names and layouts are understood, what comes out, and what is refused."""

import jax
import ml_dtypes
import networks
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import save_file

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.run import model_files, parents
from fednas_jax.run.folder import RunDir
from fednas_jax.run.state import Member
from fednas_jax.space import probing
from fednas_jax.space.network import Variables

WIDTHS = (4, 6, 8)


@pytest.fixture(scope="module")
def cnn():
    return probing.probe(nets.build(NetConfig(widths=WIDTHS), (8, 8, 1), 10), (1,), check=False)


@pytest.fixture(scope="module")
def norm():
    return probing.probe(networks.norm(), (1,), check=False)


def drawn(found, seed=0):
    """Variables of random numbers, none below 0.1, so that variances can be."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.uniform(0.1, 1, a.shape).astype(a.dtype), found.network.abstract(found.widths))


def named(variables):
    return {**variables.params, **variables.stats}


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def refused(path, found):
    with pytest.raises(ConfigError) as caught:
        parents.load(path, found)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "rename",
    [
        lambda path: path,
        lambda path: path.replace("/", "."),
        lambda path: f"params/{path}",
        lambda path: ("batch_stats." if path.split("/")[-1] in ("mean", "var") else "params.") + path.replace("/", "."),
        lambda path: f"{path}/value",
    ],
    ids=["slashes", "dots", "one collection", "collections of linen", "a state of nnx"],
)
def test_names_match_however_they_are_joined_and_collected(norm, tmp_path, rename):
    want = drawn(norm)
    save_file({rename(path): array for path, array in named(want).items()}, tmp_path / "a.safetensors")
    parent = parents.load(tmp_path / "a.safetensors", norm)
    assert_same(parent.variables, want)
    assert parent.source == {
        "path": str(tmp_path / "a.safetensors"),
        "in_ledger": False,
        "client_cost": None,
        "parent_source": None,
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_numbers_of_any_floating_type_become_the_networks(cnn, tmp_path, dtype):
    rounded = jax.tree.map(lambda a: a.astype(dtype), drawn(cnn))
    save_file(named(rounded), tmp_path / "a.safetensors")
    want = jax.tree.map(lambda a: a.astype(np.float32), rounded)
    assert_same(parents.load(tmp_path / "a.safetensors", cnn).variables, want)


def pytorch(variables):
    """The test's network `Norm` as a PyTorch state_dict names and lays it out; the dense layer is behind a flatten."""
    v = named(variables)
    pixels, conv = 9, v["conv/kernel"].shape[-1]
    dense = v["dense/kernel"].reshape(pixels, conv, -1).transpose(2, 1, 0).reshape(-1, conv * pixels)
    return {
        "conv.weight": v["conv/kernel"].transpose(3, 2, 0, 1),
        "norm.weight": v["norm/scale"],
        "norm.bias": v["norm/bias"],
        "norm.running_mean": v["norm/mean"],
        "norm.running_var": v["norm/var"],
        "norm.num_batches_tracked": np.asarray(7),
        "depthwise.weight": v["depthwise/kernel"].transpose(3, 2, 0, 1),
        "depthwise.bias": v["depthwise/bias"],
        "dense.weight": dense,
        "dense.bias": v["dense/bias"],
        "classifier.weight": v["classifier/kernel"].T,
        "classifier.bias": v["classifier/bias"],
    }


def test_a_pytorch_file_is_turned_into_the_same_network(norm, tmp_path):
    want = drawn(norm)
    save_file({n: np.ascontiguousarray(a) for n, a in pytorch(want).items()}, tmp_path / "a.safetensors")
    assert_same(parents.load(tmp_path / "a.safetensors", norm).variables, want)


def test_a_pytorch_file_gives_the_logits_that_pytorchs_layout_gives(norm, tmp_path):
    """The network once more, channels first, straight from the file's arrays."""
    state = {n: np.ascontiguousarray(a) for n, a in pytorch(drawn(norm, 1)).items()}
    save_file(state, tmp_path / "a.safetensors")
    images, _ = networks.batch(norm.network, 2)

    def conv(x, weight, stride, groups=1):
        numbers = ("NCHW", "OIHW", "NCHW")
        return jax.lax.conv_general_dilated(
            x, weight, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    def across(vector):
        return vector[:, None, None]

    x = conv(images.transpose(0, 3, 1, 2), state["conv.weight"], 2)
    x = (x - across(state["norm.running_mean"])) / np.sqrt(across(state["norm.running_var"]) + 1e-5)
    x = jax.nn.relu(x * across(state["norm.weight"]) + across(state["norm.bias"]))
    x = conv(x, state["depthwise.weight"], 1, x.shape[1]) + across(state["depthwise.bias"])
    x = jax.nn.swish(x).reshape(len(x), -1)
    x = jax.nn.relu(x @ state["dense.weight"].T + state["dense.bias"])
    want = x @ state["classifier.weight"].T + state["classifier.bias"]
    variables = parents.load(tmp_path / "a.safetensors", norm).variables
    got, _ = norm.network.apply(norm.widths, variables, images, train=False)
    np.testing.assert_allclose(got, want, rtol=1e-4)


class Flat(nnx.Module):
    """A dense layer on the image itself."""

    def __init__(self, widths, rngs):
        self.dense = nnx.Linear(2 * 3 * 2, widths["dense"], rngs=rngs)

    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def flat():
    return probing.probe(nets.from_nnx("flat", Flat, {"dense": 3}, (2, 3, 2)), (1,), check=False)


def test_a_dense_layer_on_the_image_itself_takes_pytorchs_order_of_channels(flat, tmp_path):
    weight = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    save_file({"dense.weight": weight, "dense.bias": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    kernel = parents.load(tmp_path / "a.safetensors", flat).variables.params["dense/kernel"]
    image = np.random.default_rng(1).normal(size=(2, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(image.ravel() @ kernel, weight @ image.transpose(2, 0, 1).ravel(), rtol=1e-5)


def test_a_models_folder_and_its_variables_are_taken(cnn, tmp_path):
    want = drawn(cnn)
    model_files.save_model(tmp_path / "model", want)
    assert_same(parents.load(tmp_path / "model", cnn).variables, want)
    assert_same(parents.load(tmp_path / "model" / "variables", cnn).variables, want)


def test_an_orbax_checkpoint_of_a_state_of_nnx_is_taken(flat, tmp_path):
    module = Flat({"dense": 3}, nnx.Rngs(0))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", nnx.state(module))
    want = {f"dense/{n}": np.asarray(getattr(module.dense, n).get_value()) for n in ("kernel", "bias")}
    assert_same(parents.load(tmp_path / "state", flat).variables, Variables(want, {}))


def test_what_holds_no_parent_is_refused(cnn, tmp_path):
    want = "want the folder of a run or model, an orbax checkpoint or a .safetensors file"
    assert f"{want}: there is no such file or folder" in refused(tmp_path / "nowhere", cnn)
    assert f"{want}: it holds none" in refused(tmp_path, cnn)
    (tmp_path / "a.npz").write_text("")
    assert f"{want}: it holds none" in refused(tmp_path / "a.npz", cnn)
    (tmp_path / "a.safetensors").write_text("no tensors")
    assert "a.safetensors cannot be read as safetensors" in refused(tmp_path / "a.safetensors", cnn)
    (tmp_path / "config.json").write_text("{}")
    assert "this run's parent is not trained yet" in refused(tmp_path, cnn)


def test_a_damaged_checkpoint_is_refused_in_one_line(cnn, tmp_path):
    model_files.save_model(tmp_path / "model", drawn(cnn))
    for text in ("{", '{"tree_metadatb": {}}'):
        (tmp_path / "model" / "variables" / "_METADATA").write_text(text)
        with pytest.raises(RunError, match="cannot be read as a tree of arrays: ") as caught:
            parents.load(tmp_path / "model", cnn)
        assert "\n" not in str(caught.value)


def test_numbers_of_a_run_s_parent_that_changed_on_the_disk_are_refused(cnn, tmp_path):
    """orbax reads most of such files without a word."""
    run, member = RunDir(tmp_path), Member(0, cnn.widths, cnn.widths, 0.5)
    model_files.save_member(run, cnn.network, member, drawn(cnn))
    assert_same(parents.load(run.path, cnn).variables, drawn(cnn))
    numbers = max((run.model(0) / "variables").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    changed = bytearray(numbers.read_bytes())
    changed[len(changed) // 2] ^= 64
    numbers.write_bytes(changed)
    for path in (run.path, run.model(0), run.model(0) / "variables"):
        with pytest.raises(RunError, match=f"{numbers.name} is damaged or was changed"):
            parents.load(path, cnn)


def test_another_network_is_refused_by_what_is_missing_and_what_is_too_much(cnn, norm, tmp_path):
    model_files.save_model(tmp_path / "model", drawn(norm))
    said = refused(tmp_path / "model", cnn)
    assert "is of another network, want one of cnn: it lacks conv1/bias, conv1/kernel, conv2/bias and 1 more" in said
    assert "params/depthwise/bias" in said


def test_the_same_network_at_other_widths_is_refused_with_the_option_that_takes_it(cnn, tmp_path):
    other = probing.probe(nets.build(NetConfig(widths=(2, 6, 4)), (8, 8, 1), 10), (1,), check=False)
    model_files.save_model(tmp_path / "model", drawn(other))
    said = refused(tmp_path / "model", cnn)
    assert said.endswith("model has widths 2-6-4, want 4-6-8; --net.widths 2 6 4 takes it as it is")
    assert_same(parents.load(tmp_path / "model", other).variables, drawn(other))


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [
        ("conv1/kernel", (3, 3, 1, 4), "'conv1/kernel' got shape 3x3x1x4, want 5x5x1x4"),
        ("conv2/bias", (5,), "'conv2/bias' got shape 5, want 6"),
        ("dense/kernel", (23, 8), "'dense/kernel' got shape 23x8, want 24x8"),
        ("classifier/kernel", (8,), "'classifier/kernel' got shape 8, want 8x10"),
    ],
)
def test_another_shape_is_refused_by_path(cnn, tmp_path, path, shape, message):
    arrays = named(drawn(cnn)) | {path: np.ones(shape, np.float32)}
    save_file(arrays, tmp_path / "a.safetensors")
    assert refused(tmp_path / "a.safetensors", cnn).endswith(f"a.safetensors: {message}")


def test_a_variable_that_stands_twice_is_refused(cnn, tmp_path):
    arrays = named(drawn(cnn))
    save_file(arrays | {"params/conv1/bias": arrays["conv1/bias"]}, tmp_path / "a.safetensors")
    assert "it has params/conv1/bias that cnn has not" in refused(tmp_path / "a.safetensors", cnn)
