"""Which model embeds: `CHARGEHAND_EMBEDDER…` of a process."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EmbedderSettings(BaseSettings):
    """The choice of an embedding model; every process of an installation must make the same one."""

    model_config = SettingsConfigDict(env_prefix="CHARGEHAND_", frozen=True, extra="ignore")

    embedder: Literal["local", "fastembed", "voyageai"] = "local"
    """`local`: MiniLM, which comes with Chargehand. The other two need the extra of their name."""
    embedder_folder: Path | None = None
    """For `fastembed`: the folder with the model and its tokenizer."""
    embedder_model: str = ""
    """For `voyageai`: the model's name; empty: voyage-4."""
    embedder_dimensions: int = Field(default=1024, ge=1, le=4000)
    """For `voyageai`: how long a vector is; 4,000 is the most that an HNSW index takes."""
    embedder_base_url: str = ""
    """For `voyageai`: another address of the service; empty: the SDK's own."""
