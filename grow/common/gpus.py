"""What the makers of GPUs state of them: peak speed and memory."""

_PEAK_BF16_FLOPS = {  # dense, from the vendors' data sheets
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}
_MEMORY_BYTES = {  # from the same sheets
    "H200": 141e9,
    "H100": 80e9,
    "A100": 80e9,
    "L40S": 48e9,
    "L4": 24e9,
    "A10": 24e9,
    "V100": 32e9,
}
GPUS = tuple(_PEAK_BF16_FLOPS)


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s that the maker of a GPU states, or None for one that is not in the table."""
    return next((peak for name, peak in _PEAK_BF16_FLOPS.items() if name in device_name), None)


def gpu_memory_bytes(device_name: str) -> float | None:
    """Memory of a GPU in its largest common form, or None for one that is not in the table."""
    return next((memory for name, memory in _MEMORY_BYTES.items() if name in device_name), None)
