"""Extract what tuning added to a base as a LoRA that peft loads, and print what it lost of each matrix.

python scripts/extract_plugin.py base=DIR model=DIR rank=16 output=DIR
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.merging.settings import ExtractPluginConfig


@entry_point("extract_plugin", ExtractPluginConfig)
def main(config: ExtractPluginConfig) -> None:
    """Extract, and print the error of each matrix and the size of what no LoRA holds."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.merging.lora_extraction import extract_lora

    extraction = extract_lora(config.base, config.tuned, config.rank, Path(config.output))
    for each in extraction.matrices:
        say(f"error {each.error:.3e} of |delta| {each.delta:.3e}   {each.tensor}")
    for name, size in extraction.others.items():
        say(f"not held: |delta| {size:.3e}   {name}")
    say(f"written    {config.output}; rank {config.rank} on {len(extraction.matrices)} matrices")


if __name__ == "__main__":
    main()
