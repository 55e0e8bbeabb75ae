"""What several tests need: small real encoders, and the real data where it is at hand."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: no test may ask the hub

import pytest
import timm
import torch
from hypothesis import settings

settings.register_profile("medept", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("medept")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_vit() -> torch.nn.Module:
    """A real timm ViT of 3 blocks, 32 pixels, 17 tokens, with random weights."""
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        depth=3,
        embed_dim=48,
        num_heads=3,
        num_classes=0,
        dynamic_img_size=True,
    )
    return model.eval()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The README's commands, which take longest, begin first: the other worker runs the rest."""
    items.sort(key=lambda item: item.name != "test_every_command_works_as_printed")
