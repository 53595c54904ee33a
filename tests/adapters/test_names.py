"""One rule of names: what is written is read, and is mlx-lm's."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.adapters.lora import add_lora, is_adapted, lora_parameters
from mlx_voxclone.adapters.names import TARGETS, is_adapter_tensor, layer_and_target, module_name, modules, tensor_names
from mlx_voxclone.checkpoint.release import Release, load_model


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [0, 7, 25])
def test_names_are_taken_apart_as_they_are_put_together(layer, target):
    module = module_name(layer, target)
    assert layer_and_target(module) == (layer, target)
    assert modules(tensor_names(module)) == [module]
    assert all(map(is_adapter_tensor, tensor_names(module)))
    assert not any(map(is_adapter_tensor, ["lora_a", f"{module}.weight", f"{module}.lora_c", module]))


@pytest.mark.parametrize(
    "name",
    ["layers.0.wq", "layers.x.attention.wq", "layers.0.attention.w9", "0.attention.wq", "layers.0.wq."],
)
def test_what_is_no_linear_of_the_backbone_has_no_place(name):
    assert layer_and_target(name) is None


def test_they_are_the_names_of_the_model_s_own_parameters(miniature):
    model = load_model(Release(miniature), parts=["lm"])
    added = add_lora(model, rank=2, alpha=4.0, layers=1)
    last = len(model.layers) - 1
    assert added == [module_name(last, target) for target in TARGETS]
    names = sorted(name for module in added for name in tensor_names(module))
    assert sorted(lora_parameters(model)) == names
    assert sorted(name for name, _ in tree_flatten(model.trainable_parameters())) == names
    assert not any(is_adapter_tensor(name) for name in Release(miniature).tensors.names())
    assert sum(is_adapted(module) for module in model.modules()) == len(added)
    assert isinstance(model.layers[last]["attention"]["wq"]["lora_a"], mx.array)
