"""Imports checkpoints of other formats as stock directories: PyTorch's pickled .bin files and llama.cpp's GGUF.

    pytorch_model*.bin    tensors alone are read (`weights_only=True`), none of the file's code runs
    FILE.gguf             read and dequantized by Transformers' own reader, stored as float32
    model*.safetensors    read as it is; names of old versions become the stock class's

Names: a prefix that older checkpoints lack (`decoder.` for `model.decoder.`) is added, gamma and beta of norms become
weight and bias, and what the stock class computes itself (rotary frequencies, masks, a tied head) is left out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from grow.common.contained import contained_file
from grow.common.errors import CheckpointError
from grow.common.extras import require
from grow.common.files import new_directory
from grow.common.model_card import license_of, write_card
from grow.common.provenance import Lineage, digest_files, spent_on, write_lineage
from grow.data.tokenizer_config import make_portable
from grow.families.build import load_config, model_on_meta
from grow.families.experts import stored_tensors
from grow.families.registry import family_of
from grow.families.state_dict_file import StateDictReader
from grow.families.tokenizer_files import copy_model_files
from grow.families.weights import WeightReader, indexed_files, weight_files, write_weights

PICKLED_FILE = "pytorch_model.bin"
_PICKLED_INDEX = "pytorch_model.bin.index.json"
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
_RUNTIME_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportRecord:
    """What an import found and wrote."""

    converted: str | None
    """The format that was read, and what of it was changed or left out; None where nothing was."""
    parameters: int
    """Elements of all stored tensors."""
    license: str | None
    """License that the source names."""


def import_checkpoint(source: Path, output: Path, name: str | None = None) -> ImportRecord:
    """Write a checkpoint of any format as a stock directory, with its tokenizer and lineage.json.

    Args:
        source: Model directory, or a GGUF file.
        output: Directory to make.
        name: What lineage.json calls the source; None takes its path.

    Raises:
        CheckpointError: the source is damaged, holds objects, or the output cannot be written.
        GrowthError: Grow has no axis table for the source's family.
        ConfigError: the package that reads GGUF is not installed.
    """
    gguf = source if source.is_file() else gguf_file(source)
    files = [gguf] if gguf is not None else _weight_files(source)
    with new_directory(output, sum(file.stat().st_size for file in files)) as partial:
        record = _import_gguf(gguf, partial) if gguf is not None else _import_tensors(source, files, partial)
        before = None if gguf is not None else spent_on(source)
        write_lineage(
            partial,
            Lineage(
                source=name or str(source),
                digest=digest_files(files),
                tokens=None if before is None else before.tokens,
                flops=None if before is None else before.flops,
                seconds=None if before is None else before.seconds,
                converted=record.converted,
                license=record.license,
            ),
        )
        write_card(partial, output.name)
    return record


def gguf_file(directory: Path) -> Path | None:
    """Return the GGUF file of a directory that holds nothing else to load; None where it is of another kind.

    Raises:
        CheckpointError: there are several, and nothing says which of them counts.
    """
    if (directory / "config.json").exists():
        return None
    found = sorted(directory.glob("*.gguf"))
    if len(found) > 1:
        raise CheckpointError(f"{directory}: expected one GGUF file, found {len(found)}. Name one: {found[0]}.")
    return found[0] if found else None


def _weight_files(directory: Path) -> list[Path]:
    """Return the weight files of a directory: safetensors where there are any, else pickled ones."""
    if any(directory.glob("*.safetensors")) or not any(directory.glob("pytorch_model*.bin")):
        return weight_files(directory)
    if (directory / _PICKLED_INDEX).is_file() and not (directory / PICKLED_FILE).is_file():
        return indexed_files(directory, _PICKLED_INDEX)
    return [contained_file(directory, PICKLED_FILE)]


def _import_tensors(source: Path, files: Sequence[Path], partial: Path) -> ImportRecord:
    """Copy a directory's tensors under the names of the stock class; one is in memory at a time."""
    config = load_config(source)
    pickled = files[0].suffix == ".bin"
    readers = [StateDictReader(file) for file in files] if pickled else [WeightReader(source, list(files))]
    places = {name: reader for reader in readers for name in reader.names}
    found = _stock_names(source, config, list(places))
    infos = [replace(places[old].info(old), name=name) for name, old in found]

    def blocks() -> Iterator[Tensor]:
        for info, (_, old) in zip(infos, found, strict=True):
            yield places[old].read_flat(old, slice(0, prod(info.shape))).view(info.shape)

    write_weights(partial, infos, blocks())
    config.save_pretrained(partial)
    copy_model_files(source, partial)
    left_out = sorted(places.keys() - {old for _, old in found})
    said = {
        "PyTorch .bin, read as tensors alone": pickled,
        f"{(renamed := sum(name != old for name, old in found))} tensors renamed": renamed,
        f"{len(left_out)} left out ({', '.join(left_out[:3])}{' ...' * bool(left_out[3:])})": left_out,
    }
    return ImportRecord(
        converted="; ".join(text for text, happened in said.items() if happened) or None,
        parameters=sum(prod(info.shape) for info in infos),
        license=license_of(source),
    )


def _stock_names(source: Path, config: PreTrainedConfig, stored: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name of each tensor of the stock class, and the name under which the source has it.

    Raises:
        CheckpointError: the source lacks some.
    """
    family = family_of(config.model_type)
    modern = {name: name for name in stored}
    for old, new in _OLD_NAMES.items():
        modern |= {name.removesuffix(old) + new: name for name in stored if name.endswith(old)}
    found: list[tuple[str, str]] = []
    missing: list[str] = []
    for name in stored_tensors(family, model_on_meta(config)):
        spellings = (name, family.renamed.get(name, name), name.partition(".")[2])
        old_name = next((modern[each] for each in spellings if each in modern), None)
        if old_name is None:
            missing.append(name)
        else:
            found.append((name, old_name))
    if missing:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors are missing ({', '.join(missing[:3])}). The "
            "checkpoint is incomplete or of another architecture than its config.json says; fetch it again."
        )
    return found


def _import_gguf(file: Path, partial: Path) -> ImportRecord:
    """Dequantize a GGUF file into float32 and write it with its tokenizer; the whole model is in memory."""
    require("gguf", f"source={file}")
    with tempfile.TemporaryDirectory() as alone:  # Transformers looks for further files beside it
        (Path(alone) / file.name).symlink_to(file.resolve())
        try:
            (kind, named), config = _gguf_facts(file), _gguf_config(alone, file.name)
            family_of(config.model_type)
            read: Any = AutoModelForCausalLM.from_pretrained(
                alone, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=file.name, trust_remote_code=False)
        except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, NotImplementedError) as error:
            raise CheckpointError(
                f"{file}: cannot be read as GGUF ({' '.join(str(error).split())[:300]}). It is damaged, or of an "
                "architecture that Transformers does not read; give the checkpoint that it was made from."
            ) from None
    model = _unquantized(read, config)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    make_portable(partial, config.max_position_embeddings)
    return ImportRecord(
        converted=f"GGUF {kind}, dequantized into float32",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        license=named,
    )


def _gguf_facts(file: Path) -> tuple[str, str | None]:
    """Return what a GGUF file says of its weights' type, such as Q4_1, and of its license."""
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(file)
    kind, named = reader.get_field("general.file_type"), reader.get_field("general.license")
    described = "of unknown type" if kind is None else LlamaFileType(kind.contents()).name.removeprefix("MOSTLY_")
    return described, None if named is None else str(named.contents())


def _gguf_config(directory: str, name: str) -> PreTrainedConfig:
    """Return a clean configuration: nothing of the quantization, and numbers as they were before float32 held them."""
    from transformers import AutoConfig

    read = AutoConfig.from_pretrained(directory, gguf_file=name, trust_remote_code=False).to_dict()
    plain = {key: _shortest(value) for key, value in read.items() if key not in _RUNTIME_KEYS}
    return CONFIG_MAPPING[plain["model_type"]].from_dict(plain)


def _shortest(value: Any) -> Any:
    """Return a number that float32 holds as its shortest decimal: 9.999999747378752e-06 was 1e-05."""
    if isinstance(value, dict):
        return {key: _shortest(inner) for key, inner in value.items()}
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _unquantized(read: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model of the same weights that nothing marks as quantized, which the read one refuses to be saved as."""
    config.architectures, config.dtype = [type(read).__name__], torch.float32
    plain = model_on_meta(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    return plain
