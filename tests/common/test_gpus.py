"""GPUs are known by whole words of the name that torch reports, with the figures of their makers."""

import pytest
import torch
from lightning.fabric.utilities.throughput import _CUDA_FLOPS

from grow.common.gpus import GPUS, gpu_memory_bytes, known_gpu, peak_flops
from grow.estimate.settings import EstimateSettings

REPORTED = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA GH200 144G HBM3e": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "NVIDIA B300 SXM6 AC": "B300",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100 80GB PCIe": "A100",
    "A100-SXM4-80GB": "A100",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A40": "A40",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX A6000": "RTX A6000",
    "Tesla V100-SXM2-32GB": "V100",
    "Tesla T4": "T4",
    "AMD Instinct MI300X": "MI300X",
    "AMD Instinct MI250X": "MI250X",
    "AMD Instinct MI250X / MI250": "MI250X",
    "h100": "H100",
    # Other cards than those in the table, whose names hold one of theirs:
    "NVIDIA RTX A1000 Laptop GPU": None,
    "NVIDIA RTX A1000": None,
    "NVIDIA GeForce RTX 4090 Laptop GPU": None,
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA GeForce RTX 4080 SUPER": None,
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb": None,
    "GRID A100-10C": None,
    "Quadro RTX 6000": None,
    "NVIDIA A16": None,
    "NVIDIA GeForce GTX 1080": None,
    "": None,
}


@pytest.mark.parametrize(("reported", "name"), REPORTED.items())
def test_a_reported_name_is_that_of_one_card(reported, name):
    assert known_gpu(reported) == name
    assert (peak_flops(reported) is None) == (gpu_memory_bytes(reported) is None) == (name is None)


@pytest.mark.parametrize("name", GPUS)
def test_every_name_in_the_table_means_itself(name):
    assert known_gpu(name) == name


LIGHTNING = {
    "H100": "h100 sxm", "H100 PCIe": "h100 pcie", "A100": "a100", "L4": "l4", "L40": "l40", "A10": "a10g",
    "V100": "v100 sxm", "T4": "t4",
}  # fmt: skip
DIFFER = {  # card: what Lightning states instead, as a multiple of the dense speed of bfloat16 tensor cores
    "H200": ("h200 sxm1", 2),  # with sparsity, rounded
    "H200 NVL": ("h200 nvl1", 2),  # with sparsity, rounded
    "H100 NVL": ("h100 nvl", 2.37),  # the SXM form's speed, with sparsity
    "A40": ("a40", 0.25),  # without tensor cores, as all below
    "RTX A6000": ("a6000", 0.25),
    "RTX 4090": ("rtx 4090", 0.5),
    "RTX 4080": ("rtx 4080", 0.5),
    "RTX 3090": ("rtx 3090", 0.5),
}


@pytest.mark.parametrize(
    ("name", "theirs", "times"),
    [(name, theirs, 1) for name, theirs in LIGHTNING.items()] + [(name, *entry) for name, entry in DIFFER.items()],
)
def test_the_peaks_are_lightnings_where_both_have_the_card_or_differ_for_a_known_reason(name, theirs, times):
    row = _CUDA_FLOPS[theirs]
    assert peak_flops(name) * times == pytest.approx(row.get(torch.bfloat16, row[torch.float16]), rel=0.03)


@pytest.mark.parametrize(
    ("own", "memory"),
    [(None, 80e9), (("NVIDIA A100-SXM4-40GB", 42.3e9), 42.3e9), (("NVIDIA GeForce RTX 4090", 25e9), 80e9)],
)
def test_the_memory_of_the_device_at_hand_wins_where_it_is_the_card_that_is_asked_for(own, memory):
    assert EstimateSettings(gpu="A100").find_gpu(own).memory_bytes == memory
