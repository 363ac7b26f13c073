"""What the makers of GPUs state about them: peak speed and memory.

Speeds are dense: data sheets that state tensor speeds "with sparsity" have them twice as high. Sources:

    B200, B300, GB200    NVIDIA Blackwell Architecture Technical Brief; NVIDIA HGX and GB200 NVL72 data sheets
    H200, GH200, H100    NVIDIA H200, GH200 and H100 Tensor Core GPU data sheets
    H800, H20, A800      NVIDIA's parts for China: the speeds of H100 and A100, and 148 TFLOP/s
    A100, A30, A40, A10  NVIDIA data sheets of these names; A10G is Amazon's variant of A10 (70 TFLOP/s)
    L40S, L40, L20, L4   NVIDIA data sheets of these names; NVIDIA Ada GPU Architecture whitepaper
    RTX                  NVIDIA Ada and GA102 Architecture whitepapers, Appendix A: bfloat16 with float32 accumulation;
                         NVIDIA RTX Blackwell Architecture whitepaper
    V100, T4             NVIDIA data sheets; they have float16 units only, whose speed is given
    MI                   AMD Instinct MI200 series, MI300A, MI300X, MI325X, MI350X and MI355X data sheets; of MI250 and
                         MI250X the half that is one device
"""

import re

_DATA_SHEETS = {  # dense bfloat16 TFLOP/s, GB (1e9 bytes) of memory in the largest common form
    "GB200": (2500, 186),
    "B300": (2250, 288),
    "B200": (2250, 180),
    "GH200": (989, 96),
    "H200 NVL": (835, 141),
    "H200": (989, 141),
    "H100 PCIe": (756, 80),
    "H100 NVL": (835, 94),
    "H100": (989, 80),
    "H800 PCIe": (756, 80),
    "H800": (989, 80),
    "H20": (148, 96),
    "A100": (312, 80),
    "A800": (312, 80),
    "A40": (149.7, 48),
    "A30": (165, 24),
    "A10G": (70, 24),
    "A10": (125, 24),
    "L40S": (362, 48),
    "L40": (181, 48),
    "L20": (119.5, 48),
    "L4": (121, 24),
    "RTX 6000 Ada": (364, 48),
    "RTX A6000": (154.8, 48),
    "RTX 5090": (209.5, 32),
    "RTX 4090": (165.2, 24),
    "RTX 4080": (97.5, 16),
    "RTX 3090": (71, 24),
    "V100": (125, 32),
    "T4": (65, 16),
    "MI355X": (2517, 288),
    "MI350X": (2307, 288),
    "MI325X": (1307, 256),
    "MI300X": (1307, 192),
    "MI300A": (981, 128),
    "MI250X": (191.5, 64),
    "MI250": (181, 64),
    "MI210": (181, 64),
}
GPUS = tuple(_DATA_SHEETS)
"""Names of the GPUs in the table."""
_OTHER_CARDS = frozenset(["laptop", "mobile", "max", "ti", "super", "d", "mig", "grid"])
"""Words that make a name that of another, slower or faster card, or of a part of one."""


def known_gpu(device_name: str) -> str | None:
    """Return the table's name of a GPU, or None where it is not in the table.

    Names match by whole words, as an L40 is no L4: torch reports `NVIDIA A100-SXM4-40GB`, `NVIDIA GH200 480GB` and
    `NVIDIA GeForce RTX 4090 Laptop GPU`.
    """
    words = _words(device_name)
    found = [name for name in GPUS if _words(name) <= words]
    return None if words & _OTHER_CARDS else max(found, key=lambda name: len(_words(name)), default=None)


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 FLOP/s that the maker states, or None for a GPU that is not in the table."""
    name = known_gpu(device_name)
    return None if name is None else _DATA_SHEETS[name][0] * 1e12


def gpu_memory_bytes(device_name: str) -> float | None:
    """Return the memory of a GPU in its largest common form, or None for a GPU that is not in the table."""
    name = known_gpu(device_name)
    return None if name is None else _DATA_SHEETS[name][1] * 1e9


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
