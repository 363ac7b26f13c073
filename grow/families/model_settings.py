"""The settings of every family, which `model=` can choose. Unlike the registry of families it imports nothing heavy."""

from grow.families.mixture_settings import FlexOlmoSettings, MixtralSettings, OlmoeSettings, Qwen3MoeSettings
from grow.families.settings import (
    Gemma2Settings,
    Gemma3Settings,
    Gpt2Settings,
    GptNeoxSettings,
    LlamaSettings,
    MistralSettings,
    ModelSettings,
    Olmo2Settings,
    Olmo3Settings,
    OlmoSettings,
    OptSettings,
    Phi3Settings,
    Qwen2Settings,
    Qwen3Settings,
    SmolLm3Settings,
)

MODEL_SETTINGS: tuple[type[ModelSettings], ...] = (
    *(OptSettings, GptNeoxSettings, Gpt2Settings, OlmoSettings, Olmo2Settings, Olmo3Settings, LlamaSettings),
    *(MistralSettings, SmolLm3Settings, Qwen2Settings, Qwen3Settings, Phi3Settings, Gemma2Settings, Gemma3Settings),
    *(MixtralSettings, FlexOlmoSettings, OlmoeSettings, Qwen3MoeSettings),
)
