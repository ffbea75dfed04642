"""The law of loading: every tensor is what the checkpoint has for it and the report counts it, or nothing changed."""

import checkpoints as some
import torch
from hypothesis import given, settings

from autobackbone import WeightsMismatchError, load_weights


@settings(max_examples=120)
@given(some.checkpoints())
def test_every_tensor_is_what_was_saved_or_nothing_changed(tmp_path_factory, drawn):
    index, change, checkpoint = drawn
    backbone, network, before = some.target(index)
    network.load_state_dict(before)
    path = tmp_path_factory.mktemp("w") / "w.pth"
    torch.save(checkpoint.content, path)
    must_fail = checkpoint.fault and (checkpoint.strict or change == "scaled")
    try:
        report = load_weights(backbone, path, strict=checkpoint.strict)
    except WeightsMismatchError:
        assert checkpoint.fault, "there was nothing wrong with it"
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        return
    assert not must_fail, f"loaded, in spite of {checkpoint.fault}"
    stem = some.ARCHITECTURES[index][-1]
    if stem in report.mismatched:  # no conversion is tried of what does not fit otherwise either
        assert change != "nothing"
        checkpoint.values.pop(stem, None)
    after = network.state_dict()
    filled = {key for key in after if key in checkpoint.values}
    for key, tensor in after.items():
        expected = checkpoint.values.get(key, before[key]).to(tensor.dtype)
        assert torch.equal(tensor, expected), key
    assert report.loaded == sum(after[key].numel() for key in filled)
    assert report.total == sum(tensor.numel() for tensor in after.values())
    empty = {key for key in after if key not in filled and not key.endswith("num_batches_tracked")}
    if change in ("a float counter", "reshaped"):
        empty |= after.keys() - filled
    assert {*report.missing, *report.mismatched} == empty
    if checkpoint.unexpected is not None:
        assert set(report.unexpected) == checkpoint.unexpected
