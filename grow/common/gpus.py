"""What the makers of GPUs state about them: peak speed and memory."""

_DATA_SHEETS = {  # dense bfloat16 FLOP/s, bytes of memory in the largest common form; a longer name stands first
    "H200": (989e12, 141e9),
    "H100 PCIe": (756e12, 80e9),
    "H100": (989e12, 80e9),
    "A100": (312e12, 80e9),
    "L40S": (362e12, 48e9),
    "L4": (121e12, 24e9),
    "A10": (125e12, 24e9),
    "V100": (125e12, 32e9),
}
GPUS = tuple(_DATA_SHEETS)
"""Names of the GPUs in the table."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 FLOP/s that the maker states, or None for a GPU that is not in the table."""
    return _stated(device_name)[0]


def gpu_memory_bytes(device_name: str) -> float | None:
    """Return the memory of a GPU in its largest common form, or None for a GPU that is not in the table."""
    return _stated(device_name)[1]


def _stated(device_name: str) -> tuple[float, float] | tuple[None, None]:
    """Return peak and memory of the first GPU whose name is part of the device's."""
    return next((sheet for name, sheet in _DATA_SHEETS.items() if name in device_name), (None, None))
