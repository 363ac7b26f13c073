"""Train a chain of runs, each grown from the last, up to a target; then report on all of them.

python scripts/chain.py chain=stackbert|mslt|bert2bert|g_stack|hyperclone_4x|one_layer model=TARGET [as for train.py]
"""

import sys
from pathlib import Path

from grow.chains.links import check, links_of
from grow.chains.walk import walk
from grow.cli.command import entry_point, given_overrides
from grow.cli.config import ChainConfig, ReportConfig, compose
from grow.common.printed import say
from grow.distributed.ranks import Ranks


@entry_point("chain", ChainConfig)
def main(config: ChainConfig) -> None:
    """Compose and check every link, run them, report. The same command continues a chain that was stopped."""
    links = links_of(config, given_overrides(), compose)
    report = ReportConfig(
        runs=[str(link.directory.path) for link in links],
        baseline=config.baseline,
        continued=config.continued,
        output=str(config.directory / "report"),
    )
    check(links)
    if code := walk(links):
        sys.exit(code)
    if Ranks.found().is_first:
        from grow.report.chain_report import report_chain  # here, so that configuration errors answer at once

        paths = report_chain(config.chain.name, report)
        say("\n" + Path(report.output, "chain.md").read_text().partition("![]")[0].strip())
        say("\nWrote", ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
