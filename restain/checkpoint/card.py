"""The card of a model in a repository: what its checkpoint says of itself, as Markdown with front matter."""

import json

from restain.checkpoint.file import CheckpointInfo

_UNKNOWN = "other"


def card_of(info: CheckpointInfo, repository: str, use: str, body: str = "") -> str:
    """Write the card of a checkpoint.

    Args:
        info: what it says of itself.
        repository: OWNER/NAME.
        use: commands that use it, one a line.
        body: what its maker has written, Markdown without front matter; a short description if empty.
    """
    licence = str(info.extra.get("licence", _UNKNOWN)).lower()
    front = {"license": licence, "library_name": "restain", "pipeline_tag": "image-to-image"}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items())]
    lines += ["tags:", "- histology", "- virtual-staining", "---", ""]
    facts = {
        "stain": info.stain,
        "micrometres per pixel": info.mpp,
        "method": info.method,
        "network": f"{info.kind}, {info.parameters:,} weights",
        "weights, SHA-256": info.sha256,
        "saved": f"{info.created.isoformat()} by restain {info.versions.get('restain', '?')}",
    } | {str(key): value for key, value in info.extra.items() if isinstance(value, str | int | float)}
    title = f"# {repository.partition('/')[2]}"
    about = f"Turns H&E into virtual {info.stain or 'IHC'}. For research; not for diagnosis."
    lines += [body.strip()] if body.strip() else [title, "", about]
    lines += ["", "## Use", "", "```bash", use, "```", "", "## Facts", ""]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
