"""ComfyUI nodes of joyimage: spatial edits, framing, checks, and the edit itself."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
