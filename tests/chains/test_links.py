"""What a chain's links are told, and what is refused before the first of them begins."""

import json
from pathlib import Path

import pytest

from grow.chains import walk as walking
from grow.chains.links import check, links_of
from grow.chains.walk import walk
from grow.cli.config import ChainConfig, compose
from grow.common.child_process import Ended
from grow.common.errors import ConfigError, GrowthError
from grow.common.places import CONFIG_DIR

CHAINS = sorted(path.stem for path in (CONFIG_DIR / "chain").glob("*.yaml"))
TARGET = ("model=tiny_2x", "run_dir=out")


def chain(*given):
    return links_of(compose(list(given), "chain", ChainConfig), given, compose)


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_ends_with_the_target_spends_its_tokens_and_can_be_run(name):
    links = chain(f"chain={name}", *TARGET)
    target = compose(["model=tiny_2x"])
    assert links[-1].run.model == target.model
    assert sum(link.tokens for link in links) == target.trainer.max_tokens // 4096 * 4096
    assert [link.run.growth_source for link in links] == [
        None,
        *(str(link.directory.path) for link in links[:-1]),
    ]
    assert [link.directory.path for link in links] == [Path("out") / link.name for link in links]
    assert links[0].name.startswith("01_")
    check(links)


def test_sizes_rates_seeds_and_trained_sets_are_each_links_own():
    links = chain("chain=mslt", *TARGET, "seed=3")
    assert [link.run.model.layers for link in links] == [1, 2, 3, 4, 4]
    assert [link.run.trainable.kind for link in links] == ["all", *["new_layers"] * 3, "all"]
    assert [link.run.seed for link in links] == [4003, 3003, 2003, 1003, 3]
    widths = chain("chain=hyperclone_4x", *TARGET)
    assert [(link.run.model.embed, link.run.model.heads, link.run.model.kv_heads) for link in widths] == [
        (64, 2, 1),
        (128, 4, 2),
        (256, 8, 4),
    ]
    assert [link.run.optimizer.lr for link in chain("chain=stackbert", *TARGET, "optimizer.lr=8e-4")] == pytest.approx(
        [8e-4, 5.5e-4, 3e-4]
    )


def test_what_the_command_line_says_goes_to_every_link_and_overrules_a_links_own_words():
    links = chain("chain=stackbert", *TARGET, "trainer.micro_batch=4", "schedule=cosine")
    assert {link.run.trainer.micro_batch for link in links} == {4}
    assert {link.run.schedule.kind for link in links} == {"cosine"}
    assert {link.run.schedule.kind for link in chain("chain=stackbert", *TARGET)} == {"wsd"}
    own = chain("chain=hyperclone_4x", *TARGET, "chain.links.half.overrides=['growth.snr_db=20']")
    assert [link.run.growth and link.run.growth.snr_db for link in own] == [None, 20, 10]
    assert not any("chain" in override for link in links for override in link.overrides if "run_dir" not in override)


def test_a_chain_is_named_by_itself_and_its_links_can_be_given_outright():
    config = compose(["chain=g_stack", "+chain.links.base.sizes.layers=2"], "chain", ChainConfig)
    assert config.directory.name.startswith("tiny-g_stack-seed0-")
    judged = compose(["chain=g_stack", "+chain.links.base.sizes.layers=2", "baseline=x"], "chain", ChainConfig)
    assert judged.directory == config.directory
    links = links_of(config, ["chain=g_stack", "+chain.links.base.sizes.layers=2"], compose)
    assert [link.run.model.layers for link in links] == [2, 4]


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (["chain=stackbird"], ConfigError, "Did you mean stackbert"),
        (["growth=hyperclone", "growth.source=x"], ConfigError, "each link's own"),
        (["trainable=submodel", "trainable.block_layers=1"], ConfigError, "each link's own"),
        (["model.layers=6"], ConfigError, r"layers=0\.25: layers of the target is 6"),
        (["chain=hyperclone_4x"], ConfigError, r"width=0\.25: kv_heads of the target is 2"),
        (["trainer.max_tokens=12288"], ConfigError, "less than one step"),
        (["chain.links.half.growth=none"], ConfigError, "none for the first link"),
        (["chain.links.half.growth=hyperklone"], ConfigError, "link 02_half: growth=hyperklone: no such option"),
        (["chain.links.half.tokens=0"], ConfigError, r"half\.tokens=0"),
        # of these, every link by itself could be configured
        (["chain.links.half.layers=0.75", "chain.links.half.growth=solar"], GrowthError, "link 02_half: layers: 1 in"),
        (["chain.links.half.growth=hyperclone"], GrowthError, "link 02_half: layers: 1 in the source, 2 in"),
        (["+chain.links.quarter.sizes.layers=4"], GrowthError, "link 02_half: layers: 4 in the source, 2 in"),
        (["chain.links.quarter.width=2"], GrowthError, "link 02_half: "),
        (
            ["chain.links.whole.trainable=new_layers", "chain.links.half.layers=1"],
            GrowthError,
            "link 03_whole: trainable",
        ),
        (["chain=mslt", "strategy=zero3"], ConfigError, "link 02_half: trainable=new_layers needs every rank"),
        (["averaging=lawa", "averaging.every_steps=100"], ConfigError, "link 01_quarter: averaging"),
    ],
)
def test_a_chain_that_cannot_reach_its_end_is_refused_before_it_begins(given, error, match):
    with pytest.raises(error, match=match):
        check(chain(*given))


def test_a_link_whose_directory_holds_another_run_is_refused_before_the_first_begins(tmp_path):
    (tmp_path / "02_half").mkdir()
    (tmp_path / "02_half" / "run.json").write_text(json.dumps({"config": {"seed": 1}}))
    with pytest.raises(ConfigError, match=r"link 02_half: .* holds a run of another configuration"):
        check(chain("model=tiny_2x", f"run_dir={tmp_path}"))


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """A chain of three, the first of which is finished."""
    directory = tmp_path_factory.mktemp("chain")
    (directory / "01_quarter" / "model").mkdir(parents=True)
    return chain("model=tiny_2x", f"run_dir={directory}")


@pytest.fixture
def started(monkeypatch):
    """Links that were started; what each ends with is appended to `started.ends`."""

    class Started(list):
        ends: list[Ended] = []  # noqa: RUF012 (one instance)

    done = Started()
    monkeypatch.setattr(walking, "run_process", lambda command, _: done.append(command[-1]) or done.ends.pop(0))
    return done


@pytest.mark.parametrize(
    ("code", "signals", "expected"),
    [
        (75, (), 75),
        (76, (), 76),
        (77, (), 77),
        (2, (), 2),
        (137, (), 137),
        (0, (15,), 75),
        (138, (10,), 75),
        (1, (2,), 130),
    ],
)
def test_a_chain_ends_where_a_link_does_and_with_its_code(links, started, capsys, code, signals, expected):
    started.ends = [Ended(code=code, error="", signals=frozenset(signals))]
    assert walk(links) == expected
    assert started == [f"run_dir={links[1].directory.path}"]
    printed = capsys.readouterr().out
    assert (
        "link 1 of 3, 01_quarter: 1 layers of width 256, from noise; 0 of 999,424 tokens done; this link is" in printed
    )
    assert (
        "link 2 of 3, 02_half: 2 layers of width 256, grown by stackbert; 122,880 of 999,424 tokens done\n" in printed
    )


def test_a_chain_whose_links_all_end_well_ends_well(links, started):
    started.ends = [Ended(code=0, error="", signals=frozenset())] * 2
    assert walk(links) == 0
    assert len(started) == 2


def test_a_chains_directory_may_have_any_character():
    links = chain("chain=stackbert", "model=tiny_2x", "run_dir=a=b (1), it's")
    assert [link.run.directory for link in links] == [Path("a=b (1), it's") / link.name for link in links]
    assert links[1].run.growth_source == str(links[0].directory.path)
