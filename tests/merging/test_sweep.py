"""A sweep chooses on one half of the held-out tokens, scores on the other, and keeps nothing but what was asked for."""

import pytest

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.merging.merge_sweep import sweep_merges, write_table
from grow.merging.settings import SweepMergesConfig
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    texts = write_json_lines(root / "made.jsonl", make_sentences(300, seed=0))
    prepare_files_small(root / "shards", texts, vocab_size=300)
    return root / "shards"


def config(directories, shards, root, *overrides):
    base, tuned = directories
    common = [f"base={base}", f"models=[{tuned}]", f"corpus={shards}", f"table={root}/table"]
    sizes = ["sequence_length=16", "tokens=320", "scale=[0,1,1]"]
    return compose([*common, *sizes, *overrides], "sweep_merges", SweepMergesConfig)


def test_scale_zero_is_the_base_and_scale_one_the_model(tmp_path, directories, shards):
    settings = config(directories, shards, tmp_path, f"output={tmp_path}/best")
    found = sweep_merges(settings)
    for point, model in zip(found.points[:2], found.models, strict=True):
        assert point.losses == pytest.approx(model.losses)
    assert found.best.by(None) == min(each.by(None) for each in found.points)
    assert len(found.ties) == (1 if found.best.settings.scale == 1 else 0)
    assert found.scored[0].losses != found.models[0].losses and found.tokens == 160
    written = write_table(found, tmp_path / "table", None)
    assert sorted(tmp_path.rglob("sweep*")) == sorted(written) and (tmp_path / "best" / "merge.json").is_file()


def test_a_source_that_the_data_do_not_have_is_refused(tmp_path, directories, shards):
    with pytest.raises(ConfigError, match="best_by=none_such"):
        sweep_merges(config(directories, shards, tmp_path, "best_by=none_such"))
    assert list(tmp_path.iterdir()) == []
