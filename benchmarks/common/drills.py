"""Drills small enough for a quick run."""

from typing import Any


def quick(content: dict[str, Any]) -> dict[str, Any]:
    """The drill for a quick run: one target at two sigmas, few images, poisons and steps, and a short training."""
    few = {"targets": 1, "sigma": content["sigma"][:2], "images": 300, "held_out": 300, "poisons": 5, "networks": 1}
    settings = content.get("settings", {})
    if "retrains" in settings:
        settings = settings | {"retrains": "0"}
    recipe = content.get("recipe", {})
    if recipe:
        recipe = recipe | {"epochs": 3, "width": min(64, recipe["width"])}
    return content | few | {"settings": settings | {"steps": "2"}, "recipe": recipe}
